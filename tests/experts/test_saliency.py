"""Eq. 5, batched, against one text at a time by transformers' own loss."""

import numpy as np
import torch

from dsmoe_eval.experts import token_saliency
from dsmoe_eval.steering import capture_routing, find_routers


def one_by_one(model, ids):
    """Reference: a text by itself, the loss of transformers, autograd on the embeddings."""
    ids = torch.tensor([ids])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    with capture_routing(find_routers(model)) as routing:
        model(inputs_embeds=embeddings, labels=ids, output_router_logits=False).loss.backward()
    model.zero_grad()
    saliency = (embeddings * embeddings.grad).pow(2).sum(-1).sqrt()[0].detach()
    return saliency.numpy(), routing.indices().numpy(), routing.weights().detach().numpy()


def test_batched_saliency_equals_eq_5_of_each_text_alone(model, batch):
    ids, mask = batch
    got = token_saliency(model, ids, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        expected, _, _ = one_by_one(model, ids[row, :length].tolist())
        np.testing.assert_allclose(got[row, :length], expected, rtol=2e-4, atol=1e-7)
        assert (got[row, length:] == 0).all()
        assert got[row, length - 1] == 0  # the last token predicts nothing

"""Eq. 5, batched, against one text at a time by transformers' own loss."""

import numpy as np
import torch

from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.steering import capture_routing, find_routers
from tests.conftest import make_model


def by_loss(model, ids):
    """Reference: a text by itself, the model's own loss, autograd on the embeddings."""
    ids = torch.tensor([ids])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embeddings, labels=ids, output_router_logits=False).loss.backward()
    model.zero_grad()
    return (embeddings * embeddings.grad).pow(2).sum(-1).sqrt()[0].detach().numpy()


def one_by_one(model, ids):
    """The same with the routing of that forward: saliency, experts, weights."""
    with capture_routing(find_routers(model)) as routing:
        saliency = by_loss(model, ids)
    return saliency, routing.indices().numpy(), routing.weights().detach().numpy()


def test_batched_saliency_equals_eq_5_of_each_text_alone(model, batch):
    ids, mask = batch
    got = Saliency(model)(ids, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        expected, _, _ = one_by_one(model, ids[row, :length].tolist())
        np.testing.assert_allclose(got[row, :length], expected, rtol=2e-4, atol=1e-7)
        assert (got[row, length:] == 0).all()
        assert got[row, length - 1] == 0  # the last token predicts nothing


class Capped(torch.nn.Module):
    """A head that is not all there is after the trunk: the logits are capped."""

    def __init__(self, model):
        super().__init__()
        self.inner = model
        self.base_model = model.base_model

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, labels=None, **inputs):
        output = self.inner(**inputs)
        logits = 0.05 * torch.tanh(output.logits / 0.05)
        if labels is not None:
            output.loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
        output.logits = logits
        return output


def test_logits_that_are_not_the_heads_alone_are_gone_through_whole(batch):
    model = make_model("qwen3_moe")
    capped, (ids, mask) = Capped(model), batch
    got = Saliency(capped)(ids, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        expected = by_loss(capped, ids[row, :length].tolist())
        np.testing.assert_allclose(got[row, :length], expected, rtol=2e-4, atol=1e-7)
    plain = Saliency(model)(ids, mask)
    assert not torch.allclose(got, plain, rtol=1e-2)


def test_the_size_of_a_piece_changes_nothing(batch, monkeypatch):
    model = make_model("gpt_oss")
    whole = Saliency(model)(*batch)
    monkeypatch.setattr("dsmoe_eval.experts.backward._LOGITS_AT_ONCE", 1)
    torch.testing.assert_close(Saliency(model)(*batch), whole)

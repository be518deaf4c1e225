"""Token saliency, Eq. 5 of the DSMoE paper (arXiv 2604.05267)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def token_saliency(model: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5: r_i = ||e_i * dL/de_i||_2 with e_i the token's input embedding.

    L is the mean next-token loss of each text by itself, so that batching does not change a text's
    figures. The last token of a text predicts nothing and has saliency 0.

    Args:
        model: a transformers causal language model, parameters frozen.
        input_ids: [batch, length], right-padded.
        mask: [batch, length], 1 on tokens.

    Returns:
        [batch, length] float32, 0 on padding.
    """
    embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), input_ids[:, 1:].to(logits.device), reduction="none"
    )
    predicted = mask[:, 1:].to(losses)
    loss = ((losses * predicted).sum(1) / predicted.sum(1)).sum()
    (gradient,) = torch.autograd.grad(loss, embeddings)
    saliency: Tensor = (embeddings.detach().float() * gradient.float()).norm(dim=-1) * mask
    return saliency

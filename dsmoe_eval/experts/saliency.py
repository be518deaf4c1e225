"""Token saliency, Eq. 5 of the DSMoE paper (arXiv 2604.05267).

The gradient of the loss with respect to the logits has a closed form, softmax minus one-hot. The
output head is therefore computed in pieces, forward and backward together, and neither the logits
of a batch nor their gradient are ever in memory as a whole. Texts are padded on the right and the
model is causal, so no attention mask is needed: no token attends to the padding after it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LOGITS_AT_ONCE = 2**20
_ROUNDINGS = 64


class Saliency:
    """The token saliency of a causal language model; one object serves many batches.

    Args:
        model: a model of transformers with frozen parameters.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._split: bool | None = None

    def __call__(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute Eq. 5, r_i = ||e_i * dL/de_i||_2 with e_i the token's input embedding.

        L is the mean next-token loss of each text separately, so that batching does not change a
        text's saliency. The last token of a text predicts nothing and has saliency 0.

        Args:
            input_ids: [batch, length], right-padded.
            mask: [batch, length], 1 on tokens.

        Returns:
            [batch, length] float32, 0 on padding.
        """
        if self._split is None:
            _begin_backward(self.model)
            self._split = self._has_plain_head(input_ids[:1, :2])
        embeddings = self.model.get_input_embeddings()(input_ids).detach().requires_grad_()
        share = mask[:, 1:].float()
        share = share / share.sum(1, keepdim=True)
        if self._split:
            ends, head = self._trunk(embeddings), self.model.get_output_embeddings()
        else:
            ends, head = _forward(self.model, embeddings), nn.Identity()
        gradient = _loss_gradient(ends, head, input_ids, share)
        (gradient,) = torch.autograd.grad(ends, embeddings, gradient)
        saliency: Tensor = (embeddings.detach().float() * gradient.float()).norm(dim=-1) * mask
        return saliency

    def _trunk(self, embeddings: Tensor) -> Tensor:
        states: Tensor = self.model.base_model(
            inputs_embeds=embeddings, use_cache=False
        ).last_hidden_state
        return states

    @torch.no_grad()
    def _has_plain_head(self, input_ids: Tensor) -> bool:
        """Return whether the logits are exactly the head's output on the last hidden states.

        Some models scale or cap the logits afterwards; these are computed without pieces.
        """
        head = self.model.get_output_embeddings()
        if head is None or self.model.base_model is self.model:
            return False
        embeddings = self.model.get_input_embeddings()(input_ids)
        whole = _forward(self.model, embeddings).float()
        states = self._trunk(embeddings)
        if not isinstance(states, Tensor) or states.shape[:2] != input_ids.shape:
            return False
        again = head(states).float()
        step = _ROUNDINGS * torch.finfo(states.dtype).eps * float(whole.abs().max())
        return whole.shape == again.shape and float((whole - again).abs().max()) <= step


def _begin_backward(model: nn.Module) -> None:
    """Run a plain kernel in torch's thread of backward passes, one thread for each GPU.

    This gives the thread a CUDA context. Otherwise a matrix product is the first that it runs, and
    cuBLAS warns that there is no context.
    """
    for device in {parameter.device for parameter in model.parameters() if parameter.is_cuda}:
        one = torch.ones((), device=device, requires_grad=True)
        torch.autograd.grad(one * one, one)


def _forward(model: Any, embeddings: Tensor) -> Tensor:
    logits: Tensor = model(inputs_embeds=embeddings, use_cache=False).logits
    return logits


def _loss_gradient(ends: Tensor, head: nn.Module, input_ids: Tensor, share: Tensor) -> Tensor:
    """Compute the gradient of the loss with respect to `ends`, the input of `head`.

    Args:
        ends: [batch, length, width].
        head: the module from width to vocabulary.
        input_ids: [batch, length].
        share: [batch, length - 1], the weight of each prediction in its text's loss.

    Returns:
        [batch, length, width].
    """
    gradient = torch.zeros_like(ends)
    weight = share.to(ends.device)
    batch, position = weight.nonzero(as_tuple=True)
    rows, targets = ends.detach()[batch, position], input_ids.to(ends.device)[batch, position + 1]
    weight, pieces = weight[batch, position], []
    step = max(1, _LOGITS_AT_ONCE // _vocabulary(head, rows))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].requires_grad_()
        target, factor = targets[start : start + step], weight[start : start + step]
        with torch.enable_grad():
            logits = head(part)
        slope = logits.detach().float().softmax(-1)
        slope[torch.arange(len(target)), target] -= 1
        slope *= factor.unsqueeze(1)
        pieces.append(torch.autograd.grad(logits, part, slope.to(logits.dtype))[0])
    gradient[batch, position] = torch.cat(pieces)
    return gradient


def _vocabulary(head: nn.Module, rows: Tensor) -> int:
    return int(getattr(head, "out_features", rows.shape[-1]))

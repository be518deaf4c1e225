"""Token saliency, Eq. 5 of the DSMoE paper (arXiv 2604.05267).

The gradient of the loss with respect to the logits has a closed form, softmax minus one-hot. The
output head is therefore computed in pieces, forward and backward together, and neither the logits
of a batch nor their gradient are ever in memory as a whole. Texts are padded on the right and the
model is causal, so no attention mask is needed: no token attends to the padding after it.

A batch that would need more memory than there is keeps the inputs of the layers only, and each
layer is computed again in the backward pass. That costs a second forward pass and changes no bit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .batching import batches, entrance, pad, token_budget
from .documents import Document
from .memory import checkpoint_layers, checkpointed, free_bytes, light_tokens, pass_memory

_LOGITS_AT_ONCE = 2**22
"""With a quarter of them the output layer takes a tenth longer, half with a large vocabulary."""
_LOGITS_ON_A_GPU = 2**26
"""0.8 GB in 16 bits; a product with few rows would only read the head's weights again and again."""
_TRIED = 16
"""Tokens, from all over the vocabulary, that show whether the logits are the head's output."""
_ROUNDINGS = 64


class Saliency:
    """The token saliency of a causal language model; one object serves many batches.

    Args:
        model: a model of transformers in evaluation mode with frozen parameters.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        table = model.get_input_embeddings().weight
        _begin_backward(model)
        tokens = torch.linspace(0, len(table) - 1, _TRIED, device=entrance(model)).long()
        self._split = self._has_plain_head(tokens[None])
        self._logits = _LOGITS_AT_ONCE if table.device.type == "cpu" else _LOGITS_ON_A_GPU
        self._memory = pass_memory(model, self._logits, self._split)
        self._room = free_bytes(table.device)

    def on(self, twin: nn.Module) -> Saliency:
        """Return the same for a copy of the model that shares its tensors; nothing is tried."""
        other = copy.copy(self)
        other.model = twin
        return other

    def budget(self, most: int, documents: Sequence[Document]) -> int:
        """Return the tokens of a batch, at most `most`, that fit without computing layers again."""
        longest = max((len(one.tokens) for one in documents), default=1)
        most = light_tokens(self.model, self._memory, most, longest)
        return most if self._memory is None else self._memory.budget(self._room, most, longest)

    def of_documents(self, documents: Sequence[Document]) -> Tensor:
        """Compute the saliency of the documents' tokens, in their order: [tokens], on the CPU."""
        device = entrance(self.model)
        rows: dict[int, Tensor] = {}
        for batch in batches(documents, self.budget(token_budget(device), documents)):
            ids, mask = pad([documents[index].tokens for index in batch], device)
            values = self(ids, mask).cpu()
            rows |= {
                i: row[: len(documents[i].tokens)] for i, row in zip(batch, values, strict=True)
            }
        return torch.cat([rows[index] for index in range(len(documents))])

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
        embeddings = self.model.get_input_embeddings()(input_ids).detach().requires_grad_()
        share = mask[:, 1:].float()
        share = share / share.sum(1, keepdim=True)
        with self._within_memory(input_ids):
            if self._split:
                ends, head = self._trunk(embeddings), self.model.get_output_embeddings()
            else:
                ends, head = _forward(self.model, embeddings), nn.Identity()
            gradient = _loss_gradient(ends, head, input_ids, share, self._logits)
            (gradient,) = torch.autograd.grad(ends, embeddings, gradient)
        saliency: Tensor = (embeddings.detach().float() * gradient.float()).norm(dim=-1) * mask
        return saliency

    def _within_memory(self, input_ids: Tensor) -> AbstractContextManager[None]:
        """Return the context in which layers are computed again, if a batch does not fit else."""
        if self._memory is None or self._memory.plain(*_size(input_ids)) <= self._room:
            return nullcontext()
        return checkpointed(checkpoint_layers(self.model))

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
        states: list[Tensor] = []

        def seen(
            _module: object, args: Sequence[object], given: dict[str, object], output: object
        ) -> None:
            tensors = [one for one in (*args, *given.values()) if isinstance(one, Tensor)]
            # As `_trunk` calls it, so that the states are those that it gives.
            if len(tensors) == 1 and given.get("inputs_embeds") is embeddings:
                states.append(getattr(output, "last_hidden_state"))  # noqa: B009 - untyped

        handle = self.model.base_model.register_forward_hook(seen, with_kwargs=True)
        try:
            whole = _forward(self.model, embeddings).float()
        finally:
            handle.remove()
        if len(states) != 1 or states[0].shape[:2] != input_ids.shape:
            return False
        again = head(states[0]).float()
        step = _ROUNDINGS * torch.finfo(states[0].dtype).eps * float(whole.abs().max())
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


def _size(input_ids: Tensor) -> tuple[int, int]:
    """Return the number of tokens, padding included, and the length of the texts."""
    return input_ids.numel(), input_ids.shape[1]


def _loss_gradient(
    ends: Tensor, head: nn.Module, input_ids: Tensor, share: Tensor, logits_at_once: int
) -> Tensor:
    """Compute the gradient of the loss with respect to `ends`, the input of `head`.

    Args:
        ends: [batch, length, width].
        head: the module from width to vocabulary.
        input_ids: [batch, length].
        share: [batch, length - 1], the weight of each prediction in its text's loss.
        logits_at_once: the number of logits in memory.

    Returns:
        [batch, length, width].
    """
    gradient = torch.zeros_like(ends)
    weight = share.to(ends.device)
    batch, position = weight.nonzero(as_tuple=True)
    rows, targets = ends.detach()[batch, position], input_ids.to(ends.device)[batch, position + 1]
    pieces = []
    step = max(1, logits_at_once // _vocabulary(head, rows))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].requires_grad_()
        target = targets[start : start + step]
        with torch.enable_grad():
            logits = head(part)
        slope = logits.detach().float().softmax(-1)
        slope[torch.arange(len(target)), target] -= 1
        pieces.append(torch.autograd.grad(logits, part, slope.to(logits.dtype))[0])
    # The head works on each row alone, so that a row is weighted after it as well as before.
    weight = weight[batch, position].unsqueeze(1)
    gradient[batch, position] = torch.cat(pieces).mul_(weight)
    return gradient


def _vocabulary(head: nn.Module, rows: Tensor) -> int:
    return int(getattr(head, "out_features", rows.shape[-1]))

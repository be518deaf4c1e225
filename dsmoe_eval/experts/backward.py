"""A forward and a backward pass from the log-likelihood of texts, within the memory that there is.

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
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batching import Tokens, entrance
from .memory import checkpoint_layers, checkpointed, free_bytes, light_tokens, pass_memory

_LOGITS_AT_ONCE = 2**22
"""With a quarter of them the output layer takes a tenth longer, half with a large vocabulary."""
_LOGITS_ON_A_GPU = 2**26
"""0.8 GB in 16 bits; a product with few rows would only read the head's weights again and again."""
_TRIED = 16
"""Tokens, from all over the vocabulary, that show whether the logits are the head's output."""
_ROUNDINGS = 64


class BackwardPass:
    """Passes of a causal language model; one object serves many batches.

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

    def on(self, twin: nn.Module) -> Self:
        """Return the same for a copy of the model that shares its tensors; nothing is tried."""
        other = copy.copy(self)
        other.model = twin
        return other

    def budget(self, most: int, texts: Sequence[Tokens]) -> int:
        """Return the tokens of a batch, at most `most`, that fit without computing layers again."""
        longest = max((len(one.tokens) for one in texts), default=1)
        most = light_tokens(self.model, self._memory, most, longest)
        return most if self._memory is None else self._memory.budget(self._room, most, longest)

    def within_memory(self, input_ids: Tensor) -> AbstractContextManager[None]:
        """Return the context in which layers are computed again, if a batch does not fit else."""
        if self._memory is None or self._memory.plain(*_size(input_ids)) <= self._room:
            return nullcontext()
        return checkpointed(checkpoint_layers(self.model))

    def ends(self, embeddings: Tensor) -> tuple[Tensor, nn.Module]:
        """Return the last states of all tokens, and the module from these to the logits."""
        if not self._split:
            return _forward(self.model, embeddings), nn.Identity()
        states = self.model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return states, self.model.get_output_embeddings()

    def gradient(self, ends: Tensor, head: nn.Module, ids: Tensor, share: Tensor) -> Tensor:
        """Compute the gradient of the loss with respect to `ends`; see `loss_gradient`."""
        return loss_gradient(ends, head, ids, share, self._logits)[0]

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
            # As `ends` calls it, so that the states are those that it gives.
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


def loss_gradient(
    ends: Tensor,
    head: nn.Module,
    input_ids: Tensor,
    share: Tensor,
    logits_at_once: int,
    losses: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the gradient of the loss with respect to `ends`, the input of `head`.

    Args:
        ends: [batch, length, width].
        head: the module from width to vocabulary.
        input_ids: [batch, length].
        share: [batch, length - 1], the weight of each prediction in its text's loss.
        logits_at_once: the number of logits in memory.
        losses: whether the losses are computed, too.

    Returns:
        The gradient, [batch, length, width], and each text's loss, [batch], or zeros.
    """
    gradient, wide = torch.zeros_like(ends), torch.promote_types(ends.dtype, torch.float32)
    weight = share.to(ends.device)
    batch, position = weight.nonzero(as_tuple=True)
    rows, targets = ends.detach()[batch, position], input_ids.to(ends.device)[batch, position + 1]
    weight, loss = weight[batch, position], share.new_zeros(len(ends), device=ends.device)
    pieces = []
    step = max(1, logits_at_once // _vocabulary(head, rows))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        part, target = rows[some].requires_grad_(), targets[some]
        with torch.enable_grad():
            logits = head(part)
        values = logits.detach().to(wide)
        if losses:
            each = functional.cross_entropy(values, target, reduction="none")
            loss.index_add_(0, batch[some], each.to(loss.dtype) * weight[some])
        slope = values.softmax(-1)
        slope[torch.arange(len(target)), target] -= 1
        pieces.append(torch.autograd.grad(logits, part, slope.to(logits.dtype))[0])
    # The head works on each row alone, so that a row is weighted after it as well as before.
    gradient[batch, position] = torch.cat(pieces).mul_(weight.unsqueeze(1))
    return gradient, loss


def _vocabulary(head: nn.Module, rows: Tensor) -> int:
    return int(getattr(head, "out_features", rows.shape[-1]))

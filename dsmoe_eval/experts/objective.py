"""What shifts of all routers' logits do to outcomes and to texts, with gradients.

The shifts, [layers, experts] in log-odds, are the same for every text. The gradients are those of
the model itself, since the routers' code selects and weighs; see `steering.shifted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..steering import find_routers, shifted_routers
from .batching import batches, entrance, pad, token_budget
from .influence import Influence
from .influence_items import OutcomeItem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGITS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text of which every token counts."""

    tokens: tuple[int, ...]


class ShiftObjective:
    """Mean outcomes of items and divergences of texts under shifts.

    Args:
        model: a model as for `Influence`, frozen.

    Raises:
        SteeringError: the model's routers are not known, or cannot be steered.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._influence = Influence(model)
        routers = find_routers(model)
        self.shape = (len(routers), routers[0].experts)

    def outcome(self, items: Sequence[OutcomeItem], shift: Tensor) -> tuple[float, Tensor]:
        """Return the mean outcome of items, and its gradient, float64 [layers, experts]."""
        texts = [text for item in items for text in item.texts]
        likelihoods, slopes = np.zeros(len(texts)), torch.zeros((len(texts), *self.shape))
        for batch in batches(texts, self._influence.budget(self._most, texts)):
            value, slope = self._influence([texts[at] for at in batch], shift)
            likelihoods[batch] = value.double().numpy()
            slopes[batch] = slope.float()
        total, gradient, start = 0.0, torch.zeros(self.shape, dtype=torch.float64), 0
        for item in items:
            of = slice(start, start := start + len(item.texts))
            outcome, weights, _ = item.weights(likelihoods[of])
            total += outcome
            gradient += torch.einsum("t,tle->le", torch.from_numpy(weights), slopes[of].double())
        return total / len(items), gradient / len(items)

    def divergence(self, texts: Sequence[PlainText], shift: Tensor) -> tuple[float, Tensor]:
        """Return the divergence of the shifted model from base, and its gradient.

        Returns:
            The mean over tokens of KL(base || shifted) of the next token, in nats; and its
            gradient, float64 [layers, experts].
        """
        tokens = sum(len(one.tokens) for one in texts)
        total, gradient = 0.0, torch.zeros(self.shape, dtype=torch.float64)
        for batch in batches(texts, self._influence.budget(self._most, texts)):
            value, slope = self._divergence([texts[at].tokens for at in batch], shift)
            total += value
            gradient += slope.double().cpu()
        return total / tokens, gradient / tokens

    @property
    def _most(self) -> int:
        return token_budget(entrance(self.model))

    def _divergence(self, texts: Sequence[tuple[int, ...]], at: Tensor) -> tuple[float, Tensor]:
        ids, mask = pad(texts, entrance(self.model))
        embeddings = self.model.get_input_embeddings()(ids).detach()
        wide = torch.promote_types(self.model.dtype, torch.float32)
        shift = at.to(ids.device, wide).expand(len(texts), *self.shape).clone().requires_grad_()
        with torch.no_grad():
            base, _ = self._influence.ends(embeddings)
        with ExitStack() as stack:
            stack.enter_context(self._influence.within_memory(ids))
            stack.enter_context(shifted_routers(find_routers(self.model), shift))
            with torch.enable_grad():
                ends, head = self._influence.ends(embeddings)
            value, slope = _divergence_slope(ends, base, head, mask.bool())
            (gradient,) = torch.autograd.grad(ends, shift, slope)
        return value, gradient.sum(0)


def _divergence_slope(
    ends: Tensor, base: Tensor, head: nn.Module, mask: Tensor
) -> tuple[float, Tensor]:
    """Return the sum over tokens of KL(base || shifted), and its gradient at `ends`, in pieces."""
    slope, total = torch.zeros_like(ends), 0.0
    rows, others = ends.detach()[mask], base[mask]
    width = int(getattr(head, "out_features", ends.shape[-1]))
    step, pieces = max(1, _LOGITS_AT_ONCE // width), []
    for start in range(0, len(rows), step):
        part = rows[start : start + step].requires_grad_()
        with torch.no_grad():
            before = head(others[start : start + step]).float().log_softmax(-1)
        with torch.enable_grad():
            logits = head(part)
        after = logits.detach().float().log_softmax(-1)
        total += float((before.exp() * (before - after)).sum())
        change = (after.exp() - before.exp()).to(logits.dtype)
        pieces.append(torch.autograd.grad(logits, part, change)[0])
    slope[mask] = torch.cat(pieces)
    return total, slope

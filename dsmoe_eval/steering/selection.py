"""Edits of weights where a router selects them, which is cheaper than after its forward.

- The router goes on to divide its selected values by their sum: `reweight` multiplies the values of
  chosen experts by 1 + strength before that, two operations. Where the values are logits before a
  softmax over them, log(1 + strength) is added. Either gives Eq. 11.
- It does not: `reweight` restores the sum there, and `amplify` only multiplies. The values are
  often float32 there still, and no output has to be taken apart.

The call that selects those values is not known by name: each one in the router's source is tried
out, and kept only if the router then gives what `edit_weights` makes of its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import router_patch
from .interventions import (
    LayerEffect,
    add_to_chosen,
    edit_weights,
    reweighted,
    reweighted_in_a_kernel,
    scale_chosen,
)
from .kernels import one_kernel
from .routers import Router
from .scoring import Sample, evaluating, spread_input, tolerance_of, try_out

_Change = Callable[[Tensor, Tensor, Tensor], Tensor]

_SEED, _STRONGEST = 1, 4.0


@dataclass(frozen=True, slots=True)
class SelectionSite:
    """The point in a router at which selected values are edited.

    Attributes:
        site: number of the call that selects them (`router_source.RouterForward.sites`).
        change: what is done there: `scale_chosen`, `add_to_chosen` (to logits) or `reweighted`.
    """

    site: int
    change: _Change

    def edit(self, factor: Tensor, compiled: bool = True) -> router_patch.Selected:
        """Return the edit that scales chosen experts' weights by `factor`, [experts]."""
        values = factor.log() if self.change is add_to_chosen else factor
        change = self.change
        if compiled and change is reweighted:
            change = reweighting(factor.device)
        return router_patch.Selected(
            self.site, lambda selected, indices: change(selected, indices, values)
        )


def reweighting(device: torch.device) -> _Change:
    """Return `reweighted` for tensors on `device`, on a GPU as one kernel.

    The other changes are one or two operations, for which the call of a fused kernel costs more.
    """
    return reweighted if device.type == "cpu" else one_kernel(reweighted_in_a_kernel, device)


def find_selection(router: Router, keep_sum: bool, renormalised: bool) -> SelectionSite | None:
    """Find the call to edit in a router by trying them out; return None if none of them will do.

    Args:
        router: the router.
        keep_sum: whether the edit is `reweight`; else `amplify`.
        renormalised: whether the router divides by the sum of the selected weights.
    """
    if not router.selects:
        return None
    changes: tuple[_Change, ...] = (reweighted,) if keep_sum else (scale_chosen,)
    if keep_sum and renormalised:
        changes = (scale_chosen, add_to_chosen)
    with router.loaded(), evaluating(router.module), torch.no_grad():
        hidden = spread_input(router)
        plain = try_out(router, hidden)
        generator = torch.Generator().manual_seed(_SEED)
        factor = 1 + (_STRONGEST - 1) * torch.rand(router.experts, generator=generator)
        factor = factor.to(router.device)
        effect = LayerEffect(weight_factor=factor, keep_sum=keep_sum)
        expected = edit_weights(plain.weights, plain.indices, effect)
        # The last call that selects is the likeliest: earlier ones may select groups.
        for site in reversed(range(router_patch.selecting_sites(router))):
            for change in changes:
                place = SelectionSite(site, change)
                if _gives(router, hidden, place.edit(factor, compiled=False), plain, expected):
                    return place
    return None


def _gives(
    router: Router, hidden: Tensor, edit: router_patch.Selected, plain: Sample, expected: Tensor
) -> bool:
    try:
        got = try_out(router, hidden, selected=edit)
    except (RuntimeError, TypeError, IndexError):  # values or indices of another kind
        return False
    close = torch.isclose(got.weights, expected, rtol=tolerance_of(plain.weights), atol=0.0)
    return torch.equal(got.indices, plain.indices) and bool(close.all())

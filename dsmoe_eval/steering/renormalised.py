"""Where a router goes on to divide its selected values by their sum, `reweight` is two operations.

There the chosen values are multiplied by 1 + strength before the router's own division; where the
values are logits before a softmax over them, log(1 + strength) is added. Either gives Eq. 11. The
call that selects those values is not known by name: each one in the router's source is tried out,
and kept only if the router then gives what `edit_weights` makes of its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import router_patch
from .interventions import LayerEffect, add_to_chosen, edit_weights, scale_chosen
from .kernels import on_device
from .routers import Router
from .scoring import Sample, evaluating, spread_input, tolerance_of, try_out

_SEED, _STRONGEST = 1, 4.0


class Renormalisation:
    """The place in a router at which selected values are edited, before it divides by their sum.

    Attributes:
        site: number of the call that selects them (`router_source.Forward.sites`).
        of_logits: whether the values are logits.
    """

    def __init__(self, site: int, of_logits: bool) -> None:
        self.site, self.of_logits = site, of_logits

    def edit(self, factor: Tensor, compiled: bool = True) -> router_patch.Selected:
        """Return the edit that scales chosen experts' weights by `factor`, [experts]."""
        values = factor.log() if self.of_logits else factor
        change = add_to_chosen if self.of_logits else scale_chosen
        if compiled:
            change = on_device(change, factor.device)
        return router_patch.Selected(
            self.site, lambda selected, indices: change(selected, indices, values)
        )


def find_renormalisation(router: Router) -> Renormalisation | None:
    """Try out a router's calls that select values; return None if none of them will do."""
    if not router.selects:
        return None
    with router.loaded(), evaluating(router.module), torch.no_grad():
        hidden = spread_input(router)
        plain = try_out(router, hidden)
        generator = torch.Generator().manual_seed(_SEED)
        factor = 1 + (_STRONGEST - 1) * torch.rand(router.experts, generator=generator)
        factor = factor.to(router.device)
        effect = LayerEffect(weight_factor=factor, keep_sum=True)
        expected = edit_weights(plain.weights, plain.indices, effect)
        # The last call that selects is the likeliest: earlier ones may select groups.
        for site in reversed(range(router_patch.selecting_sites(router))):
            for of_logits in (False, True):
                place = Renormalisation(site, of_logits)
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

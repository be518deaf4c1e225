"""The experts that pruning removes: in each layer all but the best, or all but random ones.

Slicing experts and router rows out of a checkpoint gives the same logits as masking these experts
(see `models.pruning`), so a profile that masks them is the pruned model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..steering import ChosenExpert, Profile
from .counts import RoutingCounts
from .methods import Method
from .scores import Scores, exposure


def pruned_experts(
    method: Method, counts: RoutingCounts, domain: str, keep: int, groups: int = 1
) -> tuple[ChosenExpert, ...]:
    """Return the experts that pruning by a method removes: in each layer all but the `keep` best.

    Super experts are kept first.

    Args:
        method: the method that scores the experts; `random` has no scores of its kind.
        counts: routing counts of one phase.
        domain: a domain of `counts`.
        keep: the number of experts that each layer keeps.
        groups: the number of groups of consecutive experts of which a router chooses some first;
            each keeps as many, the best of its group, since a checkpoint has groups of one size.

    Raises:
        ValueError: `keep` is not possible, or `counts` lack what the method needs.
    """
    if method.placebo_of is not None:
        raise ValueError(f"{method.name} scores no experts; prune at random by +matched")
    return _removed(method.score(counts, domain), counts, keep, groups)


def randomly_pruned(
    counts: RoutingCounts, keep: int, seed: int, draw: int = 1, groups: int = 1
) -> tuple[ChosenExpert, ...]:
    """Return the experts that blind pruning removes: all but `keep` random ones of each layer.

    It is the control of `pruned_experts`, matched on layer, number and group. Exposure is not
    matched: of a layer most of whose experts are kept or removed, few others are alike.

    Args:
        counts: routing counts, for layers and exposure, which is the score of an expert.
        keep: the number of experts that each layer keeps.
        seed: seed of the draw.
        draw: the number of the draw; each has random numbers that no other has.
        groups: as in `pruned_experts`.

    Raises:
        ValueError: `keep` is not possible.
    """
    shape = (len(counts.layers), counts.experts)
    drawn = np.random.default_rng([seed, draw]).random(shape)
    removed = _removed(drawn, counts, keep, groups)
    shares = exposure(counts)
    return tuple(
        one.model_copy(update={"score": float(shares[counts.layers.index(one.layer), one.expert])})
        for one in removed
    )


def exposure_kept(counts: RoutingCounts, removed: Sequence[ChosenExpert]) -> float:
    """Compute the share of all expert selections that falls on the experts that are kept."""
    used = counts.total().used
    lost = sum(float(used[counts.layers.index(one.layer), one.expert]) for one in removed)
    return 1 - lost / float(used.sum())


def share_removed(profile: Profile, used: Scores) -> float:
    """Compute the share of the model's experts that a profile masks and that no token selects.

    It is below the share of masked experts where the mask did not act.

    Args:
        profile: a profile of kind `mask`.
        used: [layers, experts], the share of tokens that select each expert in the masked model.
    """
    rows = [profile.model.layers.index(one.layer) for one in profile.experts]
    unused = used[rows, [one.expert for one in profile.experts]] == 0
    return float(unused.sum()) / used.size


def _removed(
    scores: Scores, counts: RoutingCounts, keep: int, groups: int
) -> tuple[ChosenExpert, ...]:
    ranks = scores.copy()
    for layer, expert in counts.spared:
        ranks[counts.layers.index(layer), expert] = np.inf
    kept = kept_experts(ranks, keep, groups)
    return tuple(
        ChosenExpert(layer=layer, expert=int(expert), score=float(scores[row, expert]))
        for row, layer in enumerate(counts.layers)
        for expert in np.setdiff1d(np.arange(scores.shape[1]), kept[row])
    )


def kept_experts(scores: Scores, keep: int, groups: int = 1) -> NDArray[np.int64]:
    """Return the best experts of each layer, [layers, keep], in the order of their indices.

    Ties go to the lower index.

    Args:
        scores: [layers, experts].
        keep: the number per layer.
        groups: the number of groups of consecutive experts, of which each gives as many.

    Raises:
        ValueError: `keep` is none, or as many as there are, or no multiple of the groups.
    """
    rows, experts = scores.shape
    if not 1 <= keep < experts:
        raise ValueError(f"of {experts} experts per layer, {keep} cannot be kept; keep 1 to "
                         f"{experts - 1}")  # fmt: skip
    if keep % groups or experts % groups:
        raise ValueError(f"this router chooses from {groups} groups of {experts // groups} "
                         f"experts; keep a multiple of {groups}, not {keep}")  # fmt: skip
    size = experts // groups
    order = np.argsort(-scores.reshape(rows, groups, size), axis=-1, kind="stable")
    best = order[..., : keep // groups] + size * np.arange(groups)[:, None]
    kept: NDArray[np.int64] = np.sort(best.reshape(rows, keep), axis=-1)
    return kept

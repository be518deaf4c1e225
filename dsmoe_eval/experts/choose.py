"""From scores to E*: the best experts, and matched random ones as their control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..steering import ChosenExpert
from .counts import RoutingCounts
from .methods import Method, get_method
from .scores import Scores, exposure

PAPER_SHARE = 0.01
"""Of all experts: the size of E* in the DSMoE paper."""
MATCH_TOLERANCE = 0.10


def choose_experts(
    method: Method,
    counts: RoutingCounts,
    domain: str,
    size: int | None = None,
    *,
    signed: bool = False,
    seed: int = 0,
) -> tuple[ChosenExpert, ...]:
    """E* of a domain by a method.

    Args:
        method: see `get_method`.
        counts: in one phase.
        domain: one of theirs.
        size: of E*; by default as the method's paper has it, else 1 % of all experts.
        signed: for `force`: a method whose scores have two sides also names experts to keep out.
        seed: of a placebo's draw.

    Raises:
        ValueError: too few experts with a positive score, or what the method needs was not seen.
    """
    if method.placebo_of is not None:
        real = choose_experts(get_method(method.placebo_of), counts, domain, size)
        return matched_experts(real, exposure(counts), counts.layers, seed)
    scores = method.score(counts, domain)
    if size is None and method.layer_share is not None:
        return smallest_sets(scores, counts.layers, method.layer_share)
    count = size or max(1, round(PAPER_SHARE * scores.size))
    if signed and method.signed:
        return signed_experts(scores, counts.layers, count, counts.top_k)
    return best_experts(scores, counts.layers, count)


def best_experts(scores: Scores, layers: Sequence[int], count: int) -> tuple[ChosenExpert, ...]:
    """The `count` highest scores over all (layer, expert) pairs; ties go to the lower index.

    Args:
        scores: [layers, experts].
        layers: the model's index of each row.
        count: size of E*.

    Raises:
        ValueError: fewer than `count` experts score above zero. A domain expert with a score of
            zero or less is a contradiction, and taking fewer than asked would be silent.
    """
    positive = int((scores > 0).sum())
    if not 1 <= count <= positive:
        raise ValueError(f"{count} experts were asked for and {positive} score above zero")
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, experts = np.unravel_index(order, scores.shape)
    return tuple(
        ChosenExpert(layer=layers[row], expert=int(expert), score=float(scores[row, expert]))
        for row, expert in zip(rows, experts, strict=True)
    )


def smallest_sets(scores: Scores, layers: Sequence[int], share: float) -> tuple[ChosenExpert, ...]:
    """In each layer the fewest best experts whose scores sum to at least `share` (ESFT's rule).

    Ties go to the lower index. Where a whole layer has less than `share`, all of it is taken.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    return tuple(
        ChosenExpert(layer=layers[row], expert=int(order[row, place]), score=float(value))
        for (row, place), value in np.ndenumerate(ranked)
        if before[row, place] < share
    )


def signed_experts(
    scores: Scores, layers: Sequence[int], count: int, top_k: int
) -> tuple[ChosenExpert, ...]:
    """The `count` largest |scores| of all layers; a negative one deactivates (SteerMoE's rule).

    A layer takes at most `top_k` activated experts, for no more can be selected, and keeps at least
    `top_k` that are not deactivated; beyond that the next best stands in.

    Raises:
        ValueError: so many experts are not to be had.
    """
    room = scores.shape[1] - top_k
    taken: Counter[tuple[int, bool]] = Counter()
    chosen: list[ChosenExpert] = []
    for flat in np.argsort(-np.abs(scores), axis=None, kind="stable"):
        row, expert = (int(index) for index in np.unravel_index(flat, scores.shape))
        value = float(scores[row, expert])
        side = (row, value > 0)
        if value == 0 or len(chosen) == count:
            break
        if taken[side] < (top_k if value > 0 else room):
            taken[side] += 1
            chosen.append(
                ChosenExpert(layer=layers[row], expert=expert, score=value, activate=value > 0)
            )
    if len(chosen) < count:
        raise ValueError(f"{count} experts were asked for and {len(chosen)} can be forced")
    return tuple(chosen)


def matched_experts(
    chosen: Sequence[ChosenExpert], exposure: Scores, layers: Sequence[int], seed: int
) -> tuple[ChosenExpert, ...]:
    """Random experts, one for each of `chosen`: the same layer, a like exposure, none of `chosen`.

    Drawn among the layer's experts whose exposure is within `MATCH_TOLERANCE` of the chosen one's;
    where there is none, the nearest. The score of a random expert is its exposure; one matched to
    an expert that is kept out is kept out.

    Args:
        chosen: the experts to be matched.
        exposure: [layers, experts].
        layers: the model's index of each row.
        seed: of the draw.

    Raises:
        ValueError: a layer has too few experts that were not chosen.
    """
    generator = np.random.default_rng(seed)
    taken = {(expert.layer, expert.expert) for expert in chosen}
    matched: list[ChosenExpert] = []
    for target in chosen:
        row = exposure[list(layers).index(target.layer)]
        free = [e for e in range(len(row)) if (target.layer, e) not in taken]
        if not free:
            raise ValueError(f"layer {target.layer} has no expert left to match {target.expert}")
        gaps = np.abs(row[free] - row[target.expert])
        near = np.flatnonzero(gaps <= MATCH_TOLERANCE * row[target.expert])
        pick = free[int(generator.choice(near) if len(near) else gaps.argmin())]
        taken.add((target.layer, pick))
        one = {"expert": pick, "score": float(row[pick])}
        matched.append(target.model_copy(update=one))
    return tuple(matched)

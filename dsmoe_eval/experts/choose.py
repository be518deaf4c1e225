"""Chooses E* from scores: the best experts, and matched random experts as their control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from ..steering import ChosenExpert
from .counts import Floats, RoutingCounts
from .methods import Method, get_method
from .scores import Scores, exposure

PAPER_SHARE = 0.01
"""The size of E* in the DSMoE paper, as a share of all experts."""
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
    """Choose E* of a domain by a method.

    Args:
        method: the method; see `get_method`.
        counts: routing counts of one phase.
        domain: a domain of `counts`.
        size: size of E*; by default that of the method's paper, or else 1 % of all experts.
        signed: for `force`: a method with signed scores also chooses experts to deactivate.
        seed: seed of a placebo's draw.

    Raises:
        ValueError: too few experts have a positive score, or `counts` lack what the method needs.
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
    """Choose the `count` best (layer, expert) pairs of all layers; ties go to the lower index.

    Args:
        scores: [layers, experts].
        layers: the model's layer index of each row.
        count: size of E*.

    Raises:
        ValueError: fewer than `count` experts score above zero. An expert with a score of zero or
            less is no domain expert, and a smaller E* must not be chosen silently.
    """
    positive = int((scores > 0).sum())
    if not 1 <= count <= positive:
        raise ValueError(f"E* needs {count} experts, but only {positive} score above zero")
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, experts = np.unravel_index(order, scores.shape)
    return tuple(
        ChosenExpert(layer=layers[row], expert=int(expert), score=float(scores[row, expert]))
        for row, expert in zip(rows, experts, strict=True)
    )


def smallest_sets(scores: Scores, layers: Sequence[int], share: float) -> tuple[ChosenExpert, ...]:
    """Choose in each layer the fewest best experts with a score sum of at least `share`.

    This is ESFT's rule. Ties go to the lower index. If all scores of a layer sum to less than
    `share`, all its experts are chosen.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    return tuple(
        ChosenExpert(layer=layers[row], expert=int(order[row, rank]), score=float(value))
        for (row, rank), value in np.ndenumerate(ranked)
        if before[row, rank] < share
    )


def signed_experts(
    scores: Scores, layers: Sequence[int], count: int, top_k: int
) -> tuple[ChosenExpert, ...]:
    """Choose the `count` largest |scores| of all layers; a negative score deactivates.

    This is SteerMoE's rule. At most `top_k` experts of a layer are activated, since no more can be
    selected, and at least `top_k` are not deactivated; experts beyond these limits are skipped.

    Raises:
        ValueError: fewer than `count` experts can be chosen within these limits.
    """
    most_deactivated = scores.shape[1] - top_k
    taken: Counter[tuple[int, bool]] = Counter()
    chosen: list[ChosenExpert] = []
    for flat in np.argsort(-np.abs(scores), axis=None, kind="stable"):
        row, expert = (int(index) for index in np.unravel_index(flat, scores.shape))
        value = float(scores[row, expert])
        side = (row, value > 0)
        if value == 0 or len(chosen) == count:
            break
        if taken[side] < (top_k if value > 0 else most_deactivated):
            taken[side] += 1
            chosen.append(
                ChosenExpert(layer=layers[row], expert=expert, score=value, activate=value > 0)
            )
    if len(chosen) < count:
        raise ValueError(f"E* needs {count} experts, but only {len(chosen)} can be forced")
    return tuple(chosen)


def matched_experts(
    chosen: Sequence[ChosenExpert],
    exposure: Scores,
    layers: Sequence[int],
    seed: int,
    draw: int = 1,
    spared: Collection[tuple[int, int]] = (),
) -> tuple[ChosenExpert, ...]:
    """Draw one random expert per chosen expert, in the same layer and with similar exposure.

    It is drawn from the layer's other experts whose exposure is within `MATCH_TOLERANCE` of the
    chosen expert's; if these are fewer than the number of the draw, from that many nearest ones:
    the draws of a placebo must be able to differ. Its score is its exposure. It is deactivated if
    its chosen expert is.

    Args:
        chosen: the experts to be matched.
        exposure: [layers, experts].
        layers: the model's layer index of each row.
        seed: seed of the draw.
        draw: the number of the draw; each has random numbers that no other has.
        spared: (layer, expert) that are not drawn, such as super experts.

    Raises:
        ValueError: a layer has too few experts that were not chosen.
    """
    generator = np.random.default_rng(seed if draw == 1 else [seed, draw])
    taken: dict[int, list[int]] = {layer: [] for layer in layers}
    for one in chosen:
        taken[one.layer].append(one.expert)
    for layer, expert in spared:
        taken[layer].append(expert)
    matched: list[ChosenExpert] = []
    for target in chosen:
        row = exposure[list(layers).index(target.layer)]
        is_free = np.ones(len(row), dtype=bool)
        is_free[taken[target.layer]] = False
        free = np.flatnonzero(is_free)
        if not len(free):
            raise ValueError(f"layer {target.layer} has no expert left to match {target.expert}")
        gaps = np.abs(row[free] - row[target.expert])
        near = np.flatnonzero(gaps <= MATCH_TOLERANCE * row[target.expert])
        if len(near) < draw:
            near = np.argsort(gaps, kind="stable")[:draw]
        pick = int(free[int(generator.choice(near))])
        taken[target.layer].append(pick)
        update = {"expert": pick, "score": float(row[pick])}
        matched.append(target.model_copy(update=update))
    return tuple(matched)


def exposure_gaps(
    chosen: Sequence[ChosenExpert],
    matched: Sequence[ChosenExpert],
    exposure: Scores,
    layers: Sequence[int],
) -> tuple[Floats, float]:
    """Compare the exposure of matched experts with that of the chosen ones, in the same order.

    Returns:
        The relative difference of each pair, shape (pairs,): -0.2 is a fifth less than the chosen
        expert's; and that of the two sums. Infinite where a chosen expert has no exposure.
    """

    def of(experts: Sequence[ChosenExpert]) -> Floats:
        return np.array([exposure[list(layers).index(one.layer), one.expert] for one in experts])

    before, after = of(chosen), of(matched)
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.where(after == before, 0.0, (after - before) / before)
        total = float((after.sum() - before.sum()) / before.sum())
    return gaps, total

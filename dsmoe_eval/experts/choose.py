"""From scores to E*: the best experts, and matched random ones as their control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..steering import ChosenExpert
from .scores import Scores

MATCH_TOLERANCE = 0.10


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


def matched_experts(
    chosen: Sequence[ChosenExpert], exposure: Scores, layers: Sequence[int], seed: int
) -> tuple[ChosenExpert, ...]:
    """Random experts, one for each of `chosen`: the same layer, a like exposure, none of `chosen`.

    Drawn among the layer's experts whose exposure is within `MATCH_TOLERANCE` of the chosen one's;
    where there is none, the nearest. The score of a random expert is its exposure.

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
        matched.append(ChosenExpert(layer=target.layer, expert=pick, score=float(row[pick])))
    return tuple(matched)

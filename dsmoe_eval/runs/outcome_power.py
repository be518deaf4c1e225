"""How many items each outcome needs to show the gain that a finished run saw, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ..cards import OUTCOMES
from ..results.arms import Arm
from ..results.finished import FinishedRun
from ..results.outcomes import OutcomeDifference
from ..results.paired import BINARY_TEST, Paired
from ..stats import items_needed


@dataclass(frozen=True, slots=True)
class OutcomeNeed:
    """The need of one outcome on an arm's target.

    Attributes:
        arm: the variant and its target.
        outcome: the outcome's name.
        unit: the unit of its gain.
        items: the number of items, or texts, of the run.
        gain: the gain that the run saw, positive for the better.
        mde80: the smallest gain that the run's items show with 80 % power; None: none is large
            enough, or it is not known.
        needed: the number of such items that show the gain with 80 % power, two-sided at 0.05;
            None where the run saw no gain or loss at all, or `mde80` is not known.
    """

    arm: str
    outcome: str
    unit: str
    items: int
    gain: float
    mde80: float | None
    needed: int | None

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)


def outcome_needs(pilot: FinishedRun) -> list[OutcomeNeed]:
    """Return the needs of the arms of a run that are no controls, for each of their outcomes.

    The gain is taken as the true one, and items to come as like those of the run: a planning
    figure, as uncertain as the gain.
    """
    return [need for arm in pilot.arms.values() if _claims(arm) for need in _needs(arm)]


def _claims(arm: Arm) -> bool:
    return arm.control_of is None and arm.target_result.p_adjusted is not None


def _needs(arm: Arm) -> Iterator[OutcomeNeed]:
    name, own = f"{arm.variant} on {arm.target}", arm.target_result
    score = OUTCOMES["score"]
    yield OutcomeNeed(name, "score", score.unit, own.n, own.delta, own.mde80, _of_score(own))
    for result in arm.outcomes:
        if result.target is not None:
            row = result.target
            yield OutcomeNeed(
                name, result.outcome, result.about.unit, row.n, row.gain, row.mde80, _scaled(row)
            )


def _of_score(row: Paired) -> int | None:
    """Return the number for a score: exact for McNemar's test, else as for other outcomes."""
    if row.test != BINARY_TEST:
        return _scaled(row)
    return None if row.delta == 0 else items_needed(row.delta, row.flipped)


def _scaled(row: Paired | OutcomeDifference) -> int | None:
    """Compute the items by the square of the smallest effect over the gain.

    For few items it is an upper bound, since t's quantiles and what the sample may hide fall too.
    """
    gain = row.delta if isinstance(row, Paired) else row.gain
    if row.mde80 is None or gain == 0:
        return None
    return max(2, math.ceil(row.n * (row.mde80 / gain) ** 2))

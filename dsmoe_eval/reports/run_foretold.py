"""Foretold and measured: how well a run's predictions of its arms' effects came true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..cards import OUTCOMES, OutcomeName
from ..results.arms import Arm
from ..results.foretold import ForetoldChange
from ..results.schema import RunResult
from ..variants import get_variant
from . import formats
from .figures import save, subplots
from .table import Figure, Table, make_table, words

PARTS = ("targets", "non-targets")
_FEWEST = 3
"""The fewest effects through which a line is drawn."""


@dataclass(frozen=True, slots=True)
class ForetoldEffect:
    """What was foretold of one outcome of a task, and what was measured on the test split.

    Attributes:
        part: one of `PARTS`.
        foretold: the prediction.
        measured: the measured gain; `ci95` is its 95 % interval, if there is one.
    """

    arm: Arm
    part: str
    foretold: ForetoldChange
    measured: float
    ci95: tuple[float, float] | None

    @property
    def covered(self) -> bool | None:
        """Whether the prediction interval holds what was measured; None without an interval."""
        if self.foretold.ci95 is None:
            return None
        low, high = self.foretold.ci95
        return low <= self.measured <= high


@dataclass(frozen=True, slots=True)
class ForetoldCalibration:
    """How well effects of one outcome were foretold.

    Attributes:
        number: the number of effects with a prediction interval; `covered` those inside it.
        slope: of the line of least squares of measured on foretold; None of too few effects.
        first_order: the same of measured on the effect to first order.
    """

    outcome: OutcomeName
    part: str
    number: int
    covered: int
    slope: float | None
    first_order: float | None


def foretold_effects(result: RunResult) -> list[ForetoldEffect]:
    """Return what was foretold of all arms that may change something, with what was measured."""
    if result.foretold is None:
        return []
    found = []
    for arm in result.arms:
        row = result.foretold.arm(arm.variant, arm.target)
        if row is None or get_variant(arm.variant).zero_strength:
            continue
        for change in row.changes:
            measured = _measured(arm, change)
            if measured is not None:
                part = PARTS[0] if _is_target(arm, change) else PARTS[1]
                found.append(ForetoldEffect(arm, part, change, *measured))
    return found


Measured = tuple[float, tuple[float, float] | None]


def _is_target(arm: Arm, change: ForetoldChange) -> bool:
    texts = arm.outcome("bits_per_byte")
    domains = {} if texts is None else {row.task: row.domain for row in texts.tasks}
    return change.task == arm.target_task or domains.get(change.task) == arm.target


def _measured(arm: Arm, change: ForetoldChange) -> Measured | None:
    if change.outcome == "score":
        rows = {row.task: row for row in arm.domains}
        row = rows.get(change.task, arm.target_result)
        return row.delta, row.ci95
    result = arm.outcome(change.outcome)
    tasks = () if result is None else result.tasks
    return next(((one.gain, one.ci95) for one in tasks if one.task == change.task), None)


def foretold_calibrations(effects: Sequence[ForetoldEffect]) -> list[ForetoldCalibration]:
    """Return how well effects were foretold, by outcome and part."""
    return [
        _calibration(name, part, own)
        for name in OUTCOMES
        for part in PARTS
        if (own := [e for e in effects if (e.foretold.outcome, e.part) == (name, part)])
    ]


def _calibration(
    outcome: OutcomeName, part: str, effects: Sequence[ForetoldEffect]
) -> ForetoldCalibration:
    known = [one.covered for one in effects if one.covered is not None]
    ordered = [(e.foretold.first_order, e.measured) for e in effects]
    return ForetoldCalibration(
        outcome=outcome,
        part=part,
        number=len(known),
        covered=sum(known),
        slope=_slope([(e.foretold.gain, e.measured) for e in effects]),
        first_order=_slope([(x, y) for x, y in ordered if x is not None]),
    )


def _slope(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < _FEWEST or len({x for x, _ in pairs}) < _FEWEST:
        return None
    x, y = np.array(pairs).T
    return float(np.polyfit(x, y, 1)[0])


def calibration_sentences(result: RunResult) -> list[str]:
    """Return one sentence for each outcome: how many intervals were right, and the slopes."""
    rows = foretold_calibrations(foretold_effects(result))
    return [
        _sentence(name, own) for name in OUTCOMES if (own := [r for r in rows if r.outcome == name])
    ]


def _sentence(outcome: OutcomeName, rows: Sequence[ForetoldCalibration]) -> str:
    covered, number = sum(row.covered for row in rows), sum(row.number for row in rows)
    parts = "; ".join(f"{row.part} {row.covered} of {row.number}{_of_slope(row)}" for row in rows)
    return (
        f"By {outcome} {covered} of {number} prediction intervals hold what was then measured "
        f"(95 % are to be expected): {parts}."
    )


def _of_slope(row: ForetoldCalibration) -> str:
    if row.slope is None:
        return ""
    return f", slope of measured on foretold {formats.hundredths(row.slope)}"


def calibration_table(result: RunResult) -> Table:
    """Return the table of how well effects were foretold; without rows where none were."""
    caption = (
        "Foretold: the mean change on the identification split, before the test split was asked. "
        'An effect is one outcome of a task under an arm; sham arms are left out. "inside": '
        'measured effects in their 95 % prediction interval. "slope": of measured on foretold, '
        'below 1 where effects are smaller than foretold; "first order": the slope on influence '
        "times shift."
    )
    rows = foretold_calibrations(foretold_effects(result))
    return make_table("foretold", caption, _COLUMNS, rows)


_COLUMNS: tuple[Figure[ForetoldCalibration], ...] = (
    words("outcome", lambda row: row.outcome),
    words("part", lambda row: row.part),
    Figure("effects", lambda row: row.number, "{:,}".format),
    Figure("inside", lambda row: row.covered, "{:,}".format),
    Figure("slope", lambda row: row.slope, formats.hundredths),
    Figure("first order", lambda row: row.first_order, formats.hundredths),
)


def foretold_figure(effects: Sequence[ForetoldEffect], path: Path) -> None:
    """Draw measured on foretold effects with their intervals: a column per outcome."""
    names = [name for name in OUTCOMES if any(e.foretold.outcome == name for e in effects)]
    figure, panels = subplots(len(PARTS), len(names), 4.6 * len(names), 7.6)
    for column, name in enumerate(names):
        for row, part in enumerate(PARTS):
            own = [e for e in effects if (e.foretold.outcome, e.part) == (name, part)]
            _panel(panels[row][column], own, 100.0 if name == "score" else 1.0)
            unit = "percentage points" if name == "score" else OUTCOMES[name].unit
            panels[row][column].set_title(f"{part}: {name}, {unit}", fontsize="medium")
    figure.supxlabel("foretold, with the prediction interval", fontsize="medium")
    figure.supylabel("measured, with its 95 % interval", fontsize="medium")
    save(figure, path)


def _panel(axis: Axes, effects: Sequence[ForetoldEffect], scale: float) -> None:
    for inside, marker, colour in ((True, "o", "C0"), (False, "X", "C3")):
        for one in (e for e in effects if (e.covered is not False) == inside):
            x, y = scale * one.foretold.gain, scale * one.measured
            for ends, along in ((one.foretold.ci95, True), (one.ci95, False)):
                reach = [scale * end for end in ends or ()]
                line = (reach, [y] * len(reach)) if along else ([x] * len(reach), reach)
                axis.plot(*line, color=colour, linewidth=1, alpha=0.35)
            axis.plot(x, y, marker, color=colour, markersize=5)
    values = [scale * value for value in _values(effects)] or [0.0]
    diagonal = [min(values), max(values)]
    axis.plot(diagonal, diagonal, "--", color="black", linewidth=1)


def _values(effects: Sequence[ForetoldEffect]) -> Iterator[float]:
    for one in effects:
        yield from (one.foretold.gain, one.measured)

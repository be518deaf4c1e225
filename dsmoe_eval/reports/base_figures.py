"""The report's pictures of base's scores, and of how far the method itself spreads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..results.schema import Base
from .figures import legend, save, subplots
from .run_stability import Spread


def spread(rows: Sequence[Spread], path: Path) -> None:
    """Draw an arm's gain with its interval over items, and its spread, one row per target."""
    figure, panels = subplots(1, 1, 9, 1.6 + 0.7 * len(rows))
    axis: Axes = panels[0][0]
    for place, row in enumerate(rows):
        figures, moved = row.arm.target_result, row.wordings.base_range
        if moved is not None:
            axis.fill_betweenx([place - 0.4, place + 0.4], 0, 100 * moved, color="0.88")
        axis.plot([100 * end for end in figures.ci95], [place - 0.15] * 2, color="C0", linewidth=2)
        axis.plot(100 * figures.delta, place - 0.15, "o", color="C0", markersize=8)
        _points(axis, row.gains.gains, place + 0.05, "o", "C1")
        _points(axis, [one.gain for one in row.wordings.wordings], place + 0.25, "x", "C2")
    axis.axvline(0, color="black", linewidth=1)
    names = [f"{row.arm.target} (n = {row.arm.target_result.n})" for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(f"gain of {rows[0].arm.variant} over base, percentage points")
    handles = [
        Line2D([], [], marker="o", color="C0", markersize=8, label="full text, over items"),
        Line2D([], [], marker="o", linestyle="", color="C1", markersize=5, label="each resample"),
        Line2D([], [], marker="x", linestyle="", color="C2", markersize=6, label="each wording"),
        Patch(color="0.88", label="what wordings move base"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    save(figure, path)


def _points(axis: Axes, gains: Sequence[float], place: float, marker: str, colour: str) -> None:
    """Draw gains in a row, each a little below the one before, so that equal ones are seen."""
    heights = place + 0.03 * (np.arange(len(gains)) - (len(gains) - 1) / 2)
    axis.plot(
        [100 * gain for gain in gains], heights, marker,
        color=colour, markersize=5, alpha=0.8,
    )  # fmt: skip


def base_panel(rows: Sequence[Base], path: Path) -> None:
    """Draw base's score on every task with its 95 % interval, and the task's floors as lines."""
    figure, panels = subplots(1, 1, 9, 1.6 + 0.36 * len(rows))
    axis: Axes = panels[0][0]
    for place, row in enumerate(rows):
        ends = [100 * end for end in row.ci95 or (row.score, row.score)]
        axis.plot(ends, [place, place], color="C0", linewidth=2)
        axis.plot(100 * row.score, place, "o", color="C0", label="base")
        floors = ((row.chance, "--", "firebrick", "chance"),
                  (row.constant, ":", "0.3", "one answer to all"))  # fmt: skip
        for floor, line, colour, name in floors:
            if floor is not None:
                x, y = [100 * floor] * 2, [place - 0.5, place + 0.5]
                axis.plot(x, y, line, color=colour, linewidth=2, label=name)
    axis.set_yticks(range(len(rows)), [f"{row.task} (n = {row.n:,})" for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    figure.supxlabel("score, percent", fontsize="medium")
    legend(figure, [axis])
    save(figure, path)

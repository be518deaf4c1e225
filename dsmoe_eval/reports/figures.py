"""The report's pictures, in seaborn's colour-blind palette, with n and units on the axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ..results.arms import Arm
from ..results.paired import Paired
from ..results.schema import RunResult
from ..stats import Unit
from .page import PP, Forest
from .run_arms import (
    improves,
    is_gain,
    shown_arms,
    targets_of,
    variants_of,
)
from .unit_words import in_words_of

Shifts = Mapping[tuple[str, str], NDArray[np.float64]]
"""(variant, target) -> [layers, experts] change of the shares of tokens."""
Scores = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""Method -> domain -> [layers, experts]."""
Shared = bool | Literal["none", "all", "row", "col"]
_DPI = 150
_MOST_COLUMNS = 4
_LEGEND_WIDTH = 1.4
"""The width of an entry of a legend in inches."""
_ROW_HEIGHT = 0.25
"""The height of a row of labels in inches."""


def style() -> None:
    """Set the common look of all figures."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")


def forest(result: RunResult, path: Path) -> None:
    """Draw changes with 95 % intervals, one row per target.

    The left panel shows the target, the right panel the pooled non-targets.
    """
    targets, variants = targets_of(result), variants_of(result)
    height = 0.5 + len(targets) * (0.9 + 0.28 * len(variants))
    over = any(arm.over_placebo for arm in result.arms)
    figure, panels = subplots(
        len(targets), 3 if over else 2, 15 if over else 11, height, sharex="col", sharey=True
    )
    for row, target in enumerate(targets):
        arms = [arm for arm in shown_arms(result) if arm.target == target]
        names, level = [arm.variant for arm in arms], result.significance_level
        _intervals(panels[row][0], names, [(a.target_result, improves(a, level)) for a in arms])
        _intervals(panels[row][1], names, [(arm.non_target_result, True) for arm in arms])
        panels[row][1].axvline(-100 * result.margin, color="firebrick", linestyle=":")
        panels[row][0].set_title(f"{target} (n = {arms[0].target_result.n})", loc="left")
        n_other = arms[0].non_target_result.n
        panels[row][1].set_title(f"all else, steered for {target} (n = {n_other})", loc="left")
        if over:
            _intervals(panels[row][2], names, [(a.over_placebo, _beats(a, level)) for a in arms])
            panels[row][2].set_title("over its placebo", loc="left")
    if over:
        panels[-1][2].set_xlabel("target score less its placebo's, percentage points")
    panels[-1][0].set_xlabel("change of target score, percentage points")
    panels[-1][1].set_xlabel("change of non-target score, percentage points")
    save(figure, path)


def _beats(arm: Arm, level: float) -> bool:
    """Return whether an arm gains significantly over its placebo."""
    over = arm.over_placebo
    return over is not None and is_gain(over, level)


def _intervals(
    axis: Axes, names: Sequence[str], rows: Sequence[tuple[Paired | None, bool]]
) -> None:
    """Draw comparisons; the marked ones get a filled dot, and those that are not there nothing."""
    colours = sns.color_palette("colorblind", len(rows))
    for place, ((figures, marked), colour) in enumerate(zip(rows, colours, strict=True)):
        if figures is None:
            continue
        low, high = (100 * bound for bound in figures.ci95)
        filled = colour if marked else "white"
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        middle = 100 * figures.delta
        axis.plot(middle, place, "o", color=colour, markerfacecolor=filled, markersize=7)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def tradeoff(
    trials: pd.DataFrame, margin: float, path: Path, unit: Unit = PP, *, units: str | None = None
) -> None:
    """Draw target gain against non-target change on the tuning split, as strength grows.

    Args:
        trials: columns variant, target, expert_count, layers, strength, target_delta,
            non_target_delta, chosen.
        margin: the margin of non-inferiority.
        path: the PNG.
        unit: the unit of the primary outcome, by which settings were chosen.
        units: what is steered instead of experts, in the plural; None: experts.
    """
    pairs = zip(trials["expert_count"], trials["layers"], strict=True)
    named = [in_words_of(units, _size(count, layers)) for count, layers in pairs]
    trials = trials.assign(size=named)
    sizes = list(dict.fromkeys(trials.sort_values("expert_count", kind="stable")["size"]))
    colours = dict(zip(sizes, sns.color_palette("viridis", len(sizes)), strict=True))
    figure, panels = _arm_panels(trials["variant"], trials["target"], width=3.1, height=2.9)
    for (variant, target), group in trials.groupby(["variant", "target"]):
        axis = panels[str(variant), str(target)]
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axvline(-unit.factor * margin, color="firebrick", linestyle=":")
        for size, line in group.sort_values("strength").groupby("size"):
            x, y = (unit.factor * line[name] for name in ("non_target_delta", "target_delta"))
            axis.plot(x, y, "-", marker=".", color=colours[size], label=size)
        best = group[group["chosen"]]
        axis.plot(
            unit.factor * best["non_target_delta"], unit.factor * best["target_delta"], "*",
            color="black", markersize=13, label="chosen",
        )  # fmt: skip
    name = "percentage points" if unit == PP else unit.name
    figure.supxlabel(f"non-target change,\n{name}", fontsize="medium")
    figure.supylabel(f"target change,\n{name}", fontsize="medium", ma="center")
    legend(figure, list(panels.values()))
    save(figure, path)


def _size(experts: int, layers: Sequence[int]) -> str:
    """Return the number of experts, or the layers of a vector, in words."""
    if layers:
        return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    return "1 expert" if experts == 1 else f"{experts} experts"


def _arm_panels(
    variants: Iterable[str], targets: Iterable[str], width: float, height: float
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Return a figure and its panels by variant and target; the size is that of a panel, in inches.

    A variant's panels are one row, or several if there are many targets: wider pictures could not
    be read on a page.
    """
    rows, names = list(dict.fromkeys(variants)), list(dict.fromkeys(targets))
    columns = min(len(names), _MOST_COLUMNS)
    depth = -(-len(names) // columns)
    figure, grid = subplots(
        depth * len(rows), columns, columns * width + 0.8, depth * len(rows) * height + 1,
        sharex=True, sharey=True,
    )  # fmt: skip
    panels = {}
    for (row, variant), place in product(enumerate(rows), range(depth * columns)):
        down, across = row * depth + place // columns, place % columns
        if place < len(names):
            panels[variant, names[place]] = grid[down][across]
            grid[down][across].set_title(f"{variant},\n{names[place]}", fontsize=11)
        else:  # an empty panel, so that the one above it shows the axis of its column
            grid[down][across].set_axis_off()
            grid[down - 1][across].tick_params(labelbottom=True)
    return figure, panels


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Draw one legend of all panels above them, with as many columns as there is room for."""
    found: dict[str, Artist] = {}
    for axis in panels:
        found |= {
            label: handle
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
            if label not in found
        }
    labels = sorted(found, key=lambda label: int(label.split()[0]) if label[0].isdigit() else 1e9)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / _LEGEND_WIDTH)))
    figure.legend(
        [found[label] for label in labels], labels,
        loc="outside upper center", ncols=columns, frameon=False, columnspacing=1.2,
    )  # fmt: skip


def expert_map(
    scores: Scores,
    layers: Sequence[int],
    path: Path,
    head: str = "method ",
    label: str = "score",
    columns: str | None = None,
) -> None:
    """Draw the scores of all (layer, expert) pairs, one row per domain, one panel per method."""
    rows = max(map(len, scores.values()))
    height = 0.8 + len(scores) * max(2.3, 0.9 + _ROW_HEIGHT * rows)
    figure, panels = subplots(len(scores), 1, width=12, height=height)
    for axis, (method, by_domain) in zip(panels[:, 0], scores.items(), strict=True):
        table = np.array([np.ravel(by_domain[domain]) for domain in by_domain])
        experts = table.shape[1] // len(layers)
        extent = (-0.5, len(layers) - 0.5, len(table) - 0.5, -0.5)
        image = _signed_image(axis, table, float(np.abs(table).max()), extent)
        figure.colorbar(image, ax=axis, label=label, pad=0.01)
        axis.vlines(
            np.arange(1, len(layers)) - 0.5, -0.5, len(table) - 0.5,
            color="black", linewidth=min(1.0, 12 / len(layers)),
        )  # fmt: skip
        axis.set_title(f"{head}{method}", loc="left")
        axis.set_yticks(range(len(table)), list(by_domain))
        name_ticks(axis.xaxis, layers)
    panels[-1][0].set_xlabel(columns or f"layer, each with its {experts} experts")
    save(figure, path)


def name_ticks(axis: Axis, names: Sequence[object]) -> None:
    """Mark the whole numbers from 0 on with names, as many of them as there is room for."""
    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda at, _: str(names[round(at)]) if 0 <= at < len(names) else "")
    )


def _signed_image(
    axis: Axes,
    table: NDArray[np.float64],
    bound: float,
    extent: tuple[float, float, float, float] | None = None,
) -> AxesImage:
    """Draw signed numbers as a picture: red above zero, blue below, white at zero."""
    axis.grid(visible=False)
    return axis.imshow(
        table, cmap="vlag", vmin=-bound, vmax=bound, extent=extent, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip


def subplots(
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    sharex: Shared = False,
    sharey: Shared = False,
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure and its panels: [rows, columns] `Axes`; width and height are in inches."""
    return plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="constrained",
        sharex=sharex,
        sharey=sharey,
    )


def routing_shift(
    shifts: Shifts, layers: Sequence[int], path: Path, columns: str = "expert"
) -> None:
    """Draw the change of each expert's share of tokens, steered minus base, by layer.

    Args:
        shifts: (variant, target) -> [layers, experts], fractions of tokens.
        layers: the model's index of each row.
        path: the PNG.
        columns: what a column is, on the axis.
    """
    bound = max(float(np.abs(shift).max()) for shift in shifts.values()) * 100 or 1.0
    variants, targets = zip(*shifts, strict=True)
    figure, panels = _arm_panels(variants, targets, width=3.2, height=1.9)
    for key, shift in shifts.items():
        image = _signed_image(panels[key], 100 * np.asarray(shift), bound)
        name_ticks(panels[key].yaxis, layers)
        name_ticks(panels[key].xaxis, range(np.shape(shift)[1]))
    figure.supxlabel(columns, fontsize="medium")
    figure.supylabel("layer", fontsize="medium")
    label = "change of share, pp of tokens"
    figure.colorbar(image, ax=figure.axes, label=label, location="top", aspect=40, shrink=0.7)
    save(figure, path)


def leaderboard_plot(forest: Forest, path: Path) -> None:
    """Draw a page's forest plot as a picture, one row per variant, grouped by model, with n."""
    figure, panels = subplots(1, 1, 9, 1.4 + 0.32 * len(forest.rows))
    axis: Axes = panels[0][0]
    places, place, group = [], 0.0, ""
    for row in forest.rows:
        place += 1.0 if row.group == group else 1.6
        group = row.group
        scale = forest.unit.factor
        reach = [[scale * (row.value - row.low)], [scale * (row.high - row.value)]]
        filled = row.kind in ("good", "mark")
        colour, inside = ("C0", "C0") if filled else ("0.4", "white")
        axis.errorbar(
            [scale * row.value], [place], xerr=reach, fmt="o", capsize=3, color=colour, mfc=inside
        )
        places.append(place)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(places, [f"{r.group}: {r.label}, n = {r.n:,}" for r in forest.rows])
    axis.invert_yaxis()
    figure.supxlabel(forest.axis, fontsize="medium")
    figure.suptitle(f"{forest.title}. {forest.caption}", fontsize="medium")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, and close it."""
    # Without a date in its metadata the same data gives the same file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    plt.close(figure)

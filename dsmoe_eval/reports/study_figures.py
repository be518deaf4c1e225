"""The studies' pictures: existence, similarity, the trial of identification methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ..experts.similarity import ALIKE, Kernel
from ..studies.results import (
    Control,
    DomainExistenceRow,
    ExistenceResult,
    MethodRow,
    SimilarityResult,
    TrialResult,
)
from .figures import name_ticks, save, subplots
from .unit_words import put_in_words_of

Colour = tuple[float, float, float]
_SERIES: tuple[tuple[Literal["experts", "random", "shuffled"], str, str, str, str, float], ...] = (
    ("experts", "experts", "C0", "o", "-", 2.0),
    ("random", "random weights, same tokens", "C1", "s", "--", 1.5),
    ("shuffled", "shuffled tokens", "C7", ".", ":", 1.5),
)
"""The key, label and look of each series: colour, marker, line and its width."""
_KERNELS: tuple[tuple[Kernel, str], ...] = (("linear", "linear kernel"), ("rbf", "RBF kernel"))
_ROWS: tuple[Literal["mean", "effective_rank"], ...] = ("mean", "effective_rank")


def similarity_figure(result: SimilarityResult, path: Path) -> None:
    """Draw mean CKA and effective rank of every layer's experts, beside random and shuffled ones.

    Args:
        result: the content of `similarity.json`.
        path: the PNG.
    """
    layers = result["layers"]
    places = range(len(layers))
    width = min(16.0, max(11.0, 3.0 + 0.45 * len(layers)))
    figure, panels = subplots(2, 2, width, 7.2, sharex=True, sharey="row")
    for column, (kernel, title) in enumerate(_KERNELS):
        for row, key in enumerate(_ROWS):
            axis = panels[row][column]
            for name, label, colour, marker, line, wide in _SERIES:
                values = [layer[kernel][name][key] for layer in layers]
                look = {"color": colour, "marker": marker, "linestyle": line}
                axis.plot(places, values, label=label, linewidth=wide, **look)
        largest = [layer[kernel]["experts"]["largest"] for layer in layers]
        top = panels[0][column]
        top.plot(places, largest, "^", color="C0", alpha=0.6, label="most similar pair")
        top.axhline(ALIKE, color="firebrick", linestyle=":", label=f"{ALIKE:g}, SimSMoE's limit")
        top.set_title(f"{title} (n = {result['tokens']} tokens)", loc="left")
        top.set_ylim(-0.05, 1.03)
        panels[1][column].set_ylim(0, 1.06 * result["experts"])
        panels[1][column].set_xlabel("layer")
    panels[0][0].set_ylabel("CKA of two experts, mean")
    panels[1][0].set_ylabel(f"effective rank, of {result['experts']} experts")
    name_ticks(panels[1][0].xaxis, [layer["layer"] for layer in layers])
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    save(figure, path)


_CONTROLS: tuple[tuple[Control, str, str, str], ...] = (
    ("random", "random weights", "firebrick", "-"),
    ("shuffled", "shuffled routers", "darkorange", ":"),
)
"""The name and the look of each kind of control."""


def existence_map(result: ExistenceResult, path: Path) -> None:
    """Draw specific experts by domain and layer, model beside controls, and the experts' t."""
    rows, layers = result["domains"], result["layers"]
    tables = {result["model"]: np.array([row["by_layer"] for row in rows])}
    for kind, name, _, _ in _CONTROLS:
        title = f"{name}, mean of {result['control_models']}"
        tables[title] = np.array([row["controls"][kind]["by_layer"] for row in rows])
    bound = max(1.0, *(float(table.max()) for table in tables.values()))
    figure, panels = plt.subplot_mosaic(
        [["0", "1", "2"], ["t", "t", "t"]],
        figsize=(16, 4.4 + 0.9 * len(rows)),
        layout="constrained",
    )
    maps = [panels[name] for name in ("0", "1", "2")]
    for axis, (title, table) in zip(maps, tables.items(), strict=True):
        image = _count_image(axis, table, bound)
        axis.set_title(title, loc="left")
        name_ticks(axis.xaxis, layers)
        axis.set_xlabel("layer")
        axis.set_yticks([])
    names = [f"{row['domain']} (n = {row['documents']:,})" for row in rows]
    for axis in (maps[0], panels["t"]):
        axis.set_yticks(range(len(rows)), names)
        axis.set_ylabel("domain (n documents)")
    label = f"specific, of {result['experts']} experts"
    figure.colorbar(image, ax=maps, label=label, aspect=30)
    _strength(panels["t"], rows, "influence" if result.get("by") == "influence" else "use")
    figure.legend(loc="outside lower right", ncols=4, frameon=False)
    put_in_words_of(result.get("units"), figure)
    save(figure, path)


def _count_image(axis: Axes, table: NDArray[np.float64], bound: float) -> AxesImage:
    """Draw counts as a picture, with the numbers in the cells if there is room."""
    axis.grid(visible=False)
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=bound, aspect="auto")
    if table.shape[1] <= 8:
        for (row, column), count in np.ndenumerate(table):
            colour = "white" if count > 0.6 * bound else "black"
            text = f"{count:.1f}" if table.dtype.kind == "f" else str(count)
            axis.text(column, row, text, ha="center", va="center", color=colour)
    return image


def _strength(axis: Axes, rows: Sequence[DomainExistenceRow], excess: str) -> None:
    """Draw every specific expert's t, and the largest one in each kind of control."""
    blue = sns.color_palette("colorblind")[0]
    labels = {False: "specific expert", True: "specific, beyond random weights"}
    named: set[str] = set()
    for place, row in enumerate(rows):
        for beyond, label in labels.items():
            own = [one for one in row["specific"] if one["beyond"]["random"] == beyond]
            x = [one["statistic"] for one in own if one["statistic"] is not None]
            axis.scatter(
                x, [place] * len(x), s=30, facecolor=blue if beyond else "none", edgecolor=blue,
                zorder=3, label=None if place else label,
            )  # fmt: skip
        said = f"{sum(row['by_layer'])} specific, {row['controls']['random']['beyond']} beyond"
        for kind, name, colour, line in _CONTROLS:
            largest, ends = row["controls"][kind]["largest_statistic"], [place - 0.35, place + 0.35]
            if largest is None:
                said += f"\n{name}: infinite t"
            else:
                mark = None if name in named else f"largest, {name}"
                axis.plot([largest] * 2, ends, line, color=colour, linewidth=2.5, label=mark)
                named.add(name)
        axis.annotate(said, (1.02, place), xycoords=("axes fraction", "data"), va="center")
    axis.set_xlabel(f"t: excess {excess} over its standard error (logarithmic)")
    axis.set_xscale("log")
    axis.set_ylim(len(rows) - 0.5, -0.5)


def _agreements(axis: Axes, result: TrialResult, rows: Sequence[MethodRow]) -> None:
    colours, specific = sns.color_palette("colorblind"), [row["agreement_specific"] for row in rows]
    plain = [row["agreement_plain"] for row in rows]
    for shift, label, colour, series in (
        (0.16, "specific effect", colours[0], specific),
        (-0.16, "plain effect", colours[7], plain),
    ):
        ends = np.array([figures["ci95"] for figures in series])
        _intervals(axis, shift, [figures["value"] for figures in series], ends, colour, label)
    axis.axvspan(-result["chance"], result["chance"], color="0.85", label="random rankings, 95 %")
    each = f"each of {result['experts']} experts"
    if "groups" in result:
        each = f"{result['groups']['number']} groups of {result['groups']['size']:,} experts"
    axis.set_xlabel(
        f"rank agreement with masking {each}\n"
        f"(Spearman, mean of {len(result['domains'])} domains, n = {result['items']:,} items)"
    )


def _gains(axis: Axes, rows: Sequence[MethodRow]) -> None:
    colours, placebo = sns.color_palette("colorblind"), [row["gain_over_placebo"] for row in rows]
    base = [row["gain"] for row in rows]
    for shift, label, colour, series in (
        (0.16, "over matched random experts", colours[2], placebo),
        (-0.16, "over base", colours[7], base),
    ):
        ends = 100 * np.array([gain["ci95"] for gain in series])
        _intervals(axis, shift, [100 * gain["delta"] for gain in series], ends, colour, label)
    questions = base[0]["questions"]
    axis.set_xlabel(f"target gain, percentage points\n(test split, n = {questions:,} questions)")


def _intervals(
    axis: Axes,
    shift: float,
    values: Sequence[float],
    ends: NDArray[np.float64],
    colour: Colour,
    label: str,
) -> None:
    """Draw one value and interval per method, shifted from the method's line by `shift`."""
    places = np.arange(len(values)) + shift
    axis.hlines(places, ends[:, 0], ends[:, 1], color=colour, linewidth=2)
    axis.plot(values, places, "o", color=colour, label=label)


def trial(result: TrialResult, path: Path) -> None:
    """Draw each method's agreement with the causal effects, and gain over base and placebo.

    Args:
        result: the content of a trial's `trial.json`.
        path: the PNG.
    """
    rows = sorted(result["methods"], key=lambda row: row["gain_over_placebo"]["delta"])
    figure, panels = subplots(1, 2, 11, 1.6 + 0.42 * len(rows), sharey=True)
    left, right = panels[0]
    _agreements(left, result, rows)
    _gains(right, rows)
    for axis in (left, right):
        axis.axvline(0, color="black", linewidth=1)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    left.set_yticks(np.arange(len(rows)), [row["method"] for row in rows])
    left.set_ylim(-0.5, len(rows) - 0.5)
    put_in_words_of(result.get("units"), figure)
    save(figure, path)

"""The report's pictures. Colours are seaborn's colour-blind set; n and units stand on the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..experts.similarity import ALIKE
from .page import Forest
from .tables import Arm, improves, targets_of, variants_of

_DPI = 150
_MOST_TICKS = 24
_SERIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("experts", "experts", {"color": "C0", "marker": "o", "linewidth": 2}),
    ("random", "random weights, same tokens", {"color": "C1", "marker": "s", "linestyle": "--"}),
    ("shuffled", "shuffled tokens", {"color": "C7", "marker": ".", "linestyle": ":"}),
)


def style() -> None:
    """Common look of all figures."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")


def forest(result: dict[str, Any], path: Path) -> None:
    """Changes with 95 % intervals: target left, pooled non-targets right, one row a target."""
    targets, variants = targets_of(result), variants_of(result)
    height = 0.5 + len(targets) * (0.9 + 0.28 * len(variants))
    figure, panels = _subplots(len(targets), 2, 11, height, sharex="col", sharey=True)
    for row, target in enumerate(targets):
        arms = [arm for arm in result["arms"] if arm["target"] == target]
        _intervals(panels[row][0], arms, "target_result", result["alpha"])
        _intervals(panels[row][1], arms, "non_target_result", result["alpha"])
        panels[row][1].axvline(-100 * result["margin"], color="firebrick", linestyle=":")
        panels[row][0].set_title(f"{target} (n = {arms[0]['target_result']['n']})", loc="left")
        n_other = arms[0]["non_target_result"]["n"]
        panels[row][1].set_title(f"all else, steered for {target} (n = {n_other})", loc="left")
    panels[-1][0].set_xlabel("change of target score, percentage points")
    panels[-1][1].set_xlabel("change of non-target score, percentage points")
    _save(figure, path)


def _intervals(axis: Axes, arms: Sequence[Arm], key: str, alpha: float) -> None:
    colours = sns.color_palette("colorblind", len(arms))
    for place, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
        figures = arm[key]
        low, high = (100 * bound for bound in figures["ci95"])
        middle = 100 * figures["delta"]
        filled = colour if key != "target_result" or improves(arm, alpha) else "white"
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(middle, place, "o", color=colour, markerfacecolor=filled, markersize=7)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(arms)), [arm["variant"] for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)


def tradeoff(trials: pd.DataFrame, margin: float, path: Path) -> None:
    """Target gain against non-target change on the tuning split, as strength grows.

    Args:
        trials: columns variant, target, experts, strength, target_delta, non_target_delta, chosen.
        margin: of non-inferiority, a fraction.
        path: the PNG.
    """
    rows = list(dict.fromkeys(trials["variant"]))
    columns = list(dict.fromkeys(trials["target"]))
    sizes = sorted(set(trials["experts"]))
    colours = dict(zip(sizes, sns.color_palette("viridis", len(sizes)), strict=True))
    width, height = 3.1 * len(columns), 2.7 * len(rows) + 0.6
    figure, panels = _subplots(len(rows), len(columns), width, height, sharex=True, sharey=True)
    for (variant, target), group in trials.groupby(["variant", "target"]):
        axis = panels[rows.index(str(variant))][columns.index(str(target))]
        axis.set_title(f"{variant}, {target}", fontsize=11)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axvline(-100 * margin, color="firebrick", linestyle=":")
        for size, line in group.sort_values("strength").groupby("experts"):
            x, y = 100 * line["non_target_delta"], 100 * line["target_delta"]
            axis.plot(x, y, "-", marker=".", color=colours[size], label=f"{size} experts")
        best = group[group["chosen"]]
        axis.plot(
            100 * best["non_target_delta"], 100 * best["target_delta"], "*",
            color="black", markersize=13, label="chosen",
        )  # fmt: skip
    figure.supxlabel("non-target change, percentage points")
    figure.supylabel("target change, percentage points")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _save(figure, path)


def expert_map(identification: Mapping[str, Any], path: Path) -> None:
    """Scores of all (layer, expert) pairs, a row a domain, a panel a method."""
    scores, layers = identification["scores"], identification["layers"]
    figure, panels = _subplots(len(scores), 1, width=12, height=0.6 + 2.3 * len(scores))
    for axis, (method, by_domain) in zip(panels[:, 0], scores.items(), strict=True):
        table = np.array([np.ravel(by_domain[domain]) for domain in by_domain])
        experts = table.shape[1] // len(layers)
        image = _signed_image(axis, table, float(np.abs(table).max()))
        figure.colorbar(image, ax=axis, label="score", pad=0.01)
        for layer in range(1, len(layers)):
            axis.axvline(layer * experts - 0.5, color="black", linewidth=1)
        axis.set_title(f"method {method}", loc="left")
        axis.set_yticks(range(len(table)), list(by_domain))
        middles = [(place + 0.5) * experts - 0.5 for place in range(len(layers))]
        axis.set_xticks(middles, [f"layer {layer}" for layer in layers])
    panels[-1][0].set_xlabel(f"the {experts} experts of each layer")
    _save(figure, path)


def _signed_image(axis: Axes, table: Any, bound: float) -> Any:
    """A picture of signed numbers: red above zero, blue below, white at zero."""
    axis.grid(visible=False)
    return axis.imshow(
        table, cmap="vlag", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest"
    )


def _subplots(
    rows: int, columns: int, width: float, height: float, **share: Any
) -> tuple[Figure, Any]:
    return plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **share
    )


def routing_shift(shifts: Mapping[tuple[str, str], Any], layers: Sequence[int], path: Path) -> None:
    """Change of each expert's share of tokens, steered minus base, by layer.

    Args:
        shifts: (variant, target) -> [layers, experts], fractions of tokens.
        layers: the model's index of each row.
        path: the PNG.
    """
    rows = list(dict.fromkeys(variant for variant, _ in shifts))
    columns = list(dict.fromkeys(target for _, target in shifts))
    bound = max(float(np.abs(shift).max()) for shift in shifts.values()) * 100 or 1.0
    width, height = 3.2 * len(columns) + 1, 1.6 * len(rows) + 0.8
    figure, panels = _subplots(len(rows), len(columns), width, height, sharex=True, sharey=True)
    for (variant, target), shift in shifts.items():
        axis = panels[rows.index(variant)][columns.index(target)]
        image = _signed_image(axis, 100 * np.asarray(shift), bound)
        axis.set_title(f"{variant}, {target}", fontsize=11)
        axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    figure.supxlabel("expert")
    figure.supylabel("layer")
    figure.colorbar(image, ax=panels, label="change of share, pp of tokens")
    _save(figure, path)


def similarity(result: Mapping[str, Any], path: Path) -> None:
    """Mean CKA and effective rank of every layer's experts, beside random and shuffled ones.

    Args:
        result: what `similarity.json` holds.
        path: the PNG.
    """
    layers = result["layers"]
    places = [str(layer["layer"]) for layer in layers]
    width = min(16.0, max(11.0, 3.0 + 0.45 * len(layers)))
    figure, panels = _subplots(2, 2, width, 7.2, sharex=True, sharey="row")
    for column, (kernel, title) in enumerate((("linear", "linear kernel"), ("rbf", "RBF kernel"))):
        for row, key in enumerate(("mean", "effective_rank")):
            axis = panels[row][column]
            for name, label, look in _SERIES:
                values = [layer[kernel][name][key] for layer in layers]
                axis.plot(places, values, label=label, **look)
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
    if len(places) > _MOST_TICKS:
        step = -(-len(places) // _MOST_TICKS)
        panels[1][0].set_xticks(range(0, len(places), step), places[::step])
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _save(figure, path)


def existence_map(result: Mapping[str, Any], path: Path) -> None:
    """Specific experts by domain and layer, model beside random weights, and their excess use."""
    rows, layers = result["domains"], result["layers"]
    tables = [np.array([row[key] for row in rows]) for key in ("by_layer", "random_by_layer")]
    bound = max(1.0, *(float(table.max()) for table in tables))
    width = 2.2 + 0.11 * max(16, len(layers))
    figure, panels = plt.subplots(
        1, 3, figsize=(2 * width + 8, 2.3 + 0.45 * len(rows)), sharey=True, layout="constrained",
        width_ratios=(width, width, 5),
    )  # fmt: skip
    titles = (result["model"], f"random weights, mean of {len(result['random_seeds'])}")
    for axis, table, title in zip(panels, tables, titles, strict=False):
        image = _count_image(axis, table, bound)
        axis.set_title(title, loc="left")
        step = max(1, len(layers) // 12)
        axis.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        axis.set_xlabel("layer")
    names = [f"{row['domain']} (n = {row['documents']:,})" for row in rows]
    panels[0].set_yticks(range(len(rows)), names)
    panels[0].set_ylabel("domain (n documents)")
    label = f"specific experts, of {result['experts']} a layer"
    figure.colorbar(image, ax=panels[:2], label=label, location="bottom", aspect=50, shrink=0.6)
    _excess(panels[2], rows)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    _save(figure, path)


def _count_image(axis: Axes, table: Any, bound: float) -> Any:
    """A picture of counts, written into the cells where there is room."""
    axis.grid(visible=False)
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=bound, aspect="auto")
    if table.shape[1] <= 8:
        for (row, column), count in np.ndenumerate(table):
            colour = "white" if count > 0.6 * bound else "black"
            text = f"{count:.1f}" if table.dtype.kind == "f" else str(count)
            axis.text(column, row, text, ha="center", va="center", color=colour)
    return image


def _excess(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every specific expert's rate difference, and the largest that random weights give."""
    blue = sns.color_palette("colorblind")[0]
    labels = {False: "specific expert", True: "specific, beyond random weights"}
    for place, row in enumerate(rows):
        for beyond, label in labels.items():
            x = [100 * e["difference"] for e in row["specific"] if e["exceeds_random"] == beyond]
            axis.scatter(
                x, [place] * len(x), s=30, facecolor=blue if beyond else "none", edgecolor=blue,
                zorder=3, label=None if place else label,
            )  # fmt: skip
        largest, ends = 100 * row["random_largest"], [place - 0.35, place + 0.35]
        mark = None if place else "largest in random weights"
        axis.plot([largest] * 2, ends, color="firebrick", linewidth=2.5, label=mark)
        said = f"{len(row['specific'])} specific, {row['exceeding']} beyond"
        axis.annotate(said, (1.02, place), xycoords=("axes fraction", "data"), va="center")
    axis.set_xlabel("excess use, pp of tokens (domain minus rest)")
    axis.set_xlim(left=0)


def trial(result: Mapping[str, Any], path: Path) -> None:
    """Methods of identification: agreement with the causal effects, and gain over base and placebo.

    Args:
        result: content of a trial's `trial.json`.
        path: the PNG.
    """
    rows = sorted(result["methods"], key=lambda row: row["gain_over_placebo"]["delta"])
    places = np.arange(len(rows))
    colours = sns.color_palette("colorblind")
    figure, panels = _subplots(1, 2, 11, 1.6 + 0.42 * len(rows), sharey=True)
    left, right = panels[0]
    for shift, key, label, colour in (
        (0.16, "agreement_specific", "specific effect", colours[0]),
        (-0.16, "agreement_plain", "plain effect", colours[7]),
    ):
        bounds = np.array([row[key]["ci95"] for row in rows])
        left.hlines(places + shift, bounds[:, 0], bounds[:, 1], color=colour, linewidth=2)
        values = [row[key]["value"] for row in rows]
        left.plot(values, places + shift, "o", color=colour, label=label)
    left.axvspan(-result["chance"], result["chance"], color="0.85", label="random rankings, 95 %")
    left.set_xlabel(
        f"rank agreement with masking each of {result['experts']} experts\n"
        f"(Spearman, mean of {len(result['domains'])} domains, n = {result['items']:,} items)"
    )
    for shift, key, label, colour in (
        (0.16, "gain_over_placebo", "over matched random experts", colours[2]),
        (-0.16, "gain", "over base", colours[7]),
    ):
        bounds = 100 * np.array([row[key]["ci95"] for row in rows])
        right.hlines(places + shift, bounds[:, 0], bounds[:, 1], color=colour, linewidth=2)
        values = [100 * row[key]["delta"] for row in rows]
        right.plot(values, places + shift, "o", color=colour, label=label)
    questions = rows[0]["gain"]["questions"]
    right.set_xlabel(f"target gain, percentage points\n(test split, n = {questions:,} questions)")
    for axis in (left, right):
        axis.axvline(0, color="black", linewidth=1)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    left.set_yticks(places, [row["method"] for row in rows])
    _save(figure, path)


def standings(forest: Forest, path: Path) -> None:
    """A page's forest plot as a picture: one row a variant, models apart, n beside each."""
    figure, panels = _subplots(1, 1, 9, 1.4 + 0.32 * len(forest.rows))
    axis: Axes = panels[0][0]
    places, place, group = [], 0.0, ""
    for row in forest.rows:
        place += 1.0 if row.group == group else 1.6
        group = row.group
        reach = [[100 * (row.value - row.low)], [100 * (row.high - row.value)]]
        filled = row.kind in ("good", "mark")
        colour, inside = ("C0", "C0") if filled else ("0.4", "white")
        axis.errorbar(
            [100 * row.value], [place], xerr=reach, fmt="o", capsize=3, color=colour, mfc=inside
        )
        places.append(place)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(places, [f"{r.group}: {r.label}, n = {r.n:,}" for r in forest.rows])
    axis.invert_yaxis()
    figure.supxlabel(forest.axis, fontsize="medium")
    figure.suptitle(f"{forest.title}. {forest.caption}", fontsize="medium")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # Without a date in its metadata the same data gives the same file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    plt.close(figure)

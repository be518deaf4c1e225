"""Rendering of the SimSMoE study: `simsmoe.md`, `.json` and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import write_json
from ..stats import Bounds
from ..studies.results import Basis
from ..studies.simsmoe_results import (
    CheckpointMeasures,
    ModelMeasures,
    ObjectiveRow,
    SaturationRow,
    SeedSpread,
    SimsmoeResult,
)
from ..studies.simsmoe_summary import BESIDE
from .figures import save, style, subplots
from .formats import fixed
from .table import Figure, Table, Value, make_table, markdown, words, write_markdown

LOSSES, ALONG = "losses.png", "along.png"
WORDS = {
    "none": "text alone",
    "balance": "load balancing",
    "published": "SimSMoE as published",
    "debiased": "debiased similarity",
}
_BASES: dict[Basis, str] = {"counts": "by use", "influence": "by influence"}
_DIFFERENCES = ("bits", "similarity", "experts by use", "experts by influence")


def render_simsmoe(result: SimsmoeResult, to: Path) -> Path:
    """Write the result of `simsmoe` into a folder; return the path of `simsmoe.md`."""
    write_json(to / "simsmoe.json", result)
    style()
    draw_losses(result, to / LOSSES)
    draw_along(result, to / ALONG)
    write_markdown(to / "simsmoe.md", simsmoe_page(result))
    return to / "simsmoe.md"


def simsmoe_page(result: SimsmoeResult) -> str:
    """Return the page in Markdown; everything in it follows from `simsmoe.json`."""
    seeds = len(result["seeds"])
    parts = [
        "# SimSMoE: does making experts less alike make them specialise?",
        f"{len(result['models'])} models of {result['parameters'] / 1e6:.1f} M parameters in the "
        "shape of Qwen3-MoE (16 experts, 2 selected, 2 layers), trained on characters of text of "
        f"nine domains for {result['steps']} steps: {result['characters_read'] / 1e6:.1f} M "
        f"characters, {result['characters_read'] / result['characters_trained']:.0f} times the "
        f"text. Measured on {result['documents']} other documents of the same domains. "
        f"{seeds} seed(s) per objective; weights and batches of a seed are the same for all.",
        "\n".join(f"- {one}" for one in simsmoe_findings(result)),
        "## The objectives",
        markdown(objective_table(result)).rstrip(),
        "Mean over seeds, with the 95 % interval over seeds in brackets (Student's t; wide, with "
        "so few), and for bits also over documents. CKA: debiased, of all pairs of a layer's "
        "experts on the same tokens, mean over layers; 1: alike up to rotation and scale. "
        '"unrelated": of the same outputs in random order; "random experts": of experts with '
        "random weights. Effective rank: 16 if all experts are unrelated, 1 if all are alike. "
        "Load: entropy of the selections over that of an even load.",
        f"## Beside {WORDS[BESIDE]}",
        markdown(difference_table(result)).rstrip(),
        f"Difference to the models with {WORDS[BESIDE]} of the same seeds. An interval that "
        "contains 0 shows nothing.",
        "## Specific experts along training",
        markdown(along_table(result)).rstrip(),
        f"Of {result['hypotheses']} (layer, expert, domain), how many are specific, mean over "
        "seeds; in brackets in a model with random weights, and in the model with shuffled "
        "routers. By use: the domain's text selects the expert more. By influence: raising it "
        "raises the log-likelihood of the domain's text more than of others'.",
        f"![Specific experts along training]({ALONG})",
        "## The losses",
        f"![Losses]({LOSSES})",
        "## Which similarity do estimators find between unrelated outputs?",
        markdown(saturation_table(result)).rstrip(),
        "Independent Gaussian outputs in 16 dimensions, mean of 20 draws. The published loss "
        "counts similarities above 0.5.",
    ]
    return "\n\n".join(parts) + "\n"


def simsmoe_findings(result: SimsmoeResult) -> list[str]:
    """Return what the intervals over seeds say of each objective beside `balance`."""
    said = []
    for row in result["objectives"]:
        for name, of in zip(_DIFFERENCES, _differences(row), strict=True):
            if of is not None:
                said.append(f"{_name(row)}, {name}: {_verdict(of)}")
    saturated = max(result["saturation"], key=lambda row: row["published"])
    said.append(
        f"The published estimator finds {saturated['published']:.2f} between unrelated outputs "
        f"({saturated['tokens']} tokens), the debiased one {fixed(saturated['debiased'])}."
    )
    for row in result["objectives"]:
        if row["pairs"] is not None:
            share, first, last = row["pairs"]
            said.append(
                f"{_name(row)}: the loss compared pairs in {share:.0%} of the logged steps; their "
                f"similarity, as it computes it, went from {first:.2f} (first tenth of them) to "
                f"{last:.2f} (last tenth)."
            )
    return said


def _name(row: ObjectiveRow) -> str:
    name = WORDS[row["objective"]]
    return name[0].upper() + name[1:]


def _differences(row: ObjectiveRow) -> tuple[SeedSpread | None, ...]:
    return (
        row["less_balance"],
        row["similarity_less_balance"],
        row["counts_less_balance"],
        row["influence_less_balance"],
    )


def _verdict(spread: SeedSpread) -> str:
    text = f"{_signed(spread['mean'])} beside {WORDS[BESIDE]}"
    bounds = spread["over_seeds"]
    if bounds is None:
        return f"{text}; one seed shows no interval."
    shown = f"{text} [{_signed(bounds[0])}, {_signed(bounds[1])}]"
    if bounds[0] <= 0 <= bounds[1]:
        return f"{shown}: no difference is shown."
    return f"{shown}: {'more' if bounds[0] > 0 else 'less'}."


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"


def _spread(
    of: Callable[[ObjectiveRow], SeedSpread], digits: int
) -> Callable[[ObjectiveRow], Value]:
    def value(row: ObjectiveRow) -> Value:
        return _with(of(row)["mean"], of(row)["over_seeds"], digits)

    return value


def _with(mean: float, bounds: Bounds | None, digits: int) -> str:
    shown = fixed(mean, digits)
    if bounds is None:
        return shown
    return f"{shown} [{fixed(bounds[0], digits)}, {fixed(bounds[1], digits)}]"


def objective_table(result: SimsmoeResult) -> Table:
    """Return the measures, one row per objective."""
    figures: list[Figure[ObjectiveRow]] = [
        words("objective", lambda row: WORDS[row["objective"]]),
        Figure("bits per character", _spread(lambda row: row["bits"], 3)),
        Figure("over documents", lambda row: _bounds(row["bits_over_documents"])),
        Figure("CKA, linear", _spread(lambda row: row["similarity"], 3)),
        Figure("unrelated", lambda row: fixed(row["shuffled"]["mean"])),
        Figure("random experts", lambda row: fixed(row["random"]["mean"])),
        Figure("CKA, RBF", _spread(lambda row: row["similarity_rbf"], 3)),
        Figure("effective rank", _spread(lambda row: row["effective_rank"], 1)),
        Figure("load", _spread(lambda row: row["entropy"], 3)),
        Figure("specific by use", _spread(lambda row: row["counts"], 1)),
        Figure("by influence", _spread(lambda row: row["influence"], 1)),
    ]
    return make_table("objectives", "", tuple(figures), result["objectives"])


def _bounds(bounds: Bounds | None) -> str:
    return "" if bounds is None else f"{fixed(bounds[0])} to {fixed(bounds[1])}"


def difference_table(result: SimsmoeResult) -> Table:
    """Return the differences to `balance`, one row per other objective."""

    def shown(of: Callable[[ObjectiveRow], SeedSpread | None]) -> Callable[[ObjectiveRow], Value]:
        def value(row: ObjectiveRow) -> Value:
            spread = of(row)
            return "" if spread is None else _with(spread["mean"], spread["over_seeds"], 3)

        return value

    figures: list[Figure[ObjectiveRow]] = [
        words("objective", lambda row: WORDS[row["objective"]]),
        Figure("bits per character", shown(lambda row: row["less_balance"])),
        Figure("over documents", lambda row: _bounds(row["less_balance_over_documents"])),
        Figure("CKA, linear", shown(lambda row: row["similarity_less_balance"])),
        Figure("specific by use", shown(lambda row: row["counts_less_balance"])),
        Figure("by influence", shown(lambda row: row["influence_less_balance"])),
    ]
    rows = [row for row in result["objectives"] if row["objective"] != BESIDE]
    return make_table("differences", "", tuple(figures), rows)


def saturation_table(result: SimsmoeResult) -> Table:
    """Return the estimators on unrelated outputs, one row per size."""
    figures: list[Figure[SaturationRow]] = [
        Figure("standard deviation", lambda row: row["deviation"], "{:.1f}".format),
        Figure("tokens", lambda row: row["tokens"]),
        Figure("published", lambda row: fixed(row["published"])),
        Figure("linear, biased", lambda row: fixed(row["biased"])),
        Figure("linear, debiased", lambda row: fixed(row["debiased"])),
    ]
    return make_table("saturation", "", tuple(figures), result["saturation"])


Along = tuple[int, dict[str, list[CheckpointMeasures]]]
"""A step, and the checkpoints of all seeds at it, by objective."""


def _along(result: SimsmoeResult) -> list[Along]:
    objectives = [row["objective"] for row in result["objectives"]]
    steps = [one["step"] for one in result["models"][0]["checkpoints"]]
    return [
        (step, {
            name: [
                one["checkpoints"][at] for one in result["models"] if one["objective"] == name
            ]
            for name in objectives
        })
        for at, step in enumerate(steps)
    ]  # fmt: skip


def along_table(result: SimsmoeResult) -> Table:
    """Return the number of specific experts, one row per checkpoint."""
    figures: list[Figure[Along]] = [Figure("step", lambda row: row[0])]
    for row in result["objectives"]:
        name = row["objective"]
        figures += [
            Figure(f"{WORDS[name]}, {words_of}", _counted(name, by))
            for by, words_of in _BASES.items()
        ]
    return make_table("along", "", tuple(figures), _along(result))


def _counted(name: str, by: Basis) -> Callable[[Along], Value]:
    def value(row: Along) -> Value:
        found = [one[by] for one in row[1][name]]
        specific = np.mean([one["specific"] for one in found])
        random = np.mean([one["random"] for one in found])
        shuffled = np.mean([one["shuffled"] for one in found])
        return f"{specific:.1f} ({random:.1f}, {shuffled:.1f})"

    return value


def draw_losses(result: SimsmoeResult, path: Path) -> None:
    """Draw the losses along training, the mean over seeds of each objective."""
    figure, panels = subplots(1, 3, 13.0, 4.2)
    shown = ("text", "balance", "similarities")
    labels = ("nats per character,\ntext that is trained on", "load balancing,\n1 if even",
              "similarity that the loss saw")  # fmt: skip
    for axis, of, label in zip(panels[0], shown, labels, strict=True):
        for at, row in enumerate(result["objectives"]):
            steps, means = _curve(result["models"], row["objective"], of)
            if steps:
                axis.plot(steps, means, color=f"C{at}", label=WORDS[row["objective"]])
        axis.set_xlabel("step")
        axis.set_ylabel(label)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False)
    save(figure, path)


def _curve(models: list[ModelMeasures], objective: str, of: str) -> tuple[list[float], list[float]]:
    by_step: dict[float, list[float]] = {}
    for model in models:
        for one in model["losses"] if model["objective"] == objective else ():
            step, value = one["step"], one[of]
            if step is not None and value is not None:
                by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    return steps, [float(np.mean(by_step[step])) for step in steps]


def draw_along(result: SimsmoeResult, path: Path) -> None:
    """Draw the number of specific experts along training, a panel per basis."""
    rows = _along(result)
    figure, panels = subplots(1, 2, 11.0, 4.2)
    for axis, by in zip(panels[0], _BASES, strict=True):
        for at, row in enumerate(result["objectives"]):
            found = np.array([
                [one[by]["specific"] for one in models[row["objective"]]]
                for _, models in rows
            ])  # fmt: skip
            axis.plot(
                range(len(rows)), found.mean(1), "o-", color=f"C{at}", label=WORDS[row["objective"]]
            )
            axis.fill_between(
                range(len(rows)), found.min(1), found.max(1), color=f"C{at}", alpha=0.12
            )
        axis.set_xticks(range(len(rows)), [str(step) for step, _ in rows])
        axis.set_xlabel("step")
        axis.set_ylabel(f"specific experts, of {result['hypotheses']} tested")
        axis.set_ylim(bottom=0)
        axis.set_title(_BASES[by], loc="left")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False)
    save(figure, path)

"""Rendering of the existence test along training: `emergence.md`, `.json` and `.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..files import write_json
from ..studies.map_results import CheckpointRow, EmergenceResult
from ..studies.results import Basis, Control
from .existence import CONTROLS
from .existence_maps import NAMES
from .figures import save, style, subplots
from .table import Figure, Table, Value, make_table, markdown, words, write_markdown
from .unit_words import in_words_of, put_in_words_of

PICTURE = "emergence.png"
_LOOKS: dict[Control, tuple[str, str]] = {"random": ("firebrick", "--"), "shuffled": ("C1", ":")}


def render_emergence(result: EmergenceResult, to: Path) -> Path:
    """Write the result of `emergence` into a folder; return the path of `emergence.md`."""
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "emergence.json", result)
    style()
    draw_emergence(result, to / PICTURE)
    page = in_words_of(result.get("units"), emergence_page(result))
    write_markdown(to / "emergence.md", page)
    return to / "emergence.md"


def emergence_findings(result: EmergenceResult) -> list[str]:
    """Return how the number of specific experts went, by each basis."""
    rows, said = result["checkpoints"], []
    for by in result["bases"]:
        counts = [row["tests"][by]["specific"] for row in rows]
        most = max(range(len(rows)), key=lambda at: counts[at])
        last = rows[-1]["tests"][by]
        beside = "; ".join(
            f"{min(found)} to {max(found)} in the last one's models with {CONTROLS[kind]}"
            for kind, found in (
                (kind, last["controls"][kind]["discoveries"]) for kind in last["controls"]
            )
        )
        said.append(
            f"{NAMES[by].capitalize()}: {counts[0]} specific experts at {rows[0]['label']}, "
            f"{counts[-1]} at {rows[-1]['label']}, the most ({counts[most]}) at "
            f"{rows[most]['label']}; {beside}."
        )
    if result["limit"] is not None:
        said.append(f"Limited to {result['limit']} texts a task: a smoke test, not a result.")
    return said


def emergence_page(result: EmergenceResult) -> str:
    """Return the page in Markdown; everything in it follows from `emergence.json`."""
    form = "" if result["form"] is None else f" Influence: {result['form']} form."
    parts = [
        f"# Specific experts along training, on {result['source']}",
        "\n".join(f"- {one}" for one in emergence_findings(result)),
        f"![Specific experts by checkpoint]({PICTURE})",
        markdown(emergence_table(result)).rstrip(),
        "The number of specific (layer, expert, domain) of "
        f"{result['hypotheses']:,} tested, at a false discovery rate of {result['level']:.0%} with "
        f"{result['permutations']:,} shuffles of documents' labels; in brackets the mean of the "
        f"{result['control_models']} control model(s) of each kind: random weights, and the "
        'checkpoint with shuffled routers. "beyond": specific experts whose t is larger than any '
        "expert's for the domain in the models with random weights." + form,
        "Each checkpoint is one training: what differs between two of them may be chance as well "
        "as training. A model with random weights has specific experts too, since words differ "
        "between domains; compare the lines.",
    ]
    return "\n\n".join(parts) + "\n"


def emergence_table(result: EmergenceResult) -> Table:
    """Return the number of specific experts, one row per checkpoint."""
    figures: list[Figure[CheckpointRow]] = [words("checkpoint", lambda row: row["label"])]
    for by in result["bases"]:
        name = NAMES[by]
        figures += [
            Figure(
                f"specific {name} (random, shuffled)",
                _with_controls(by),
                "{} ({:.0f}, {:.0f})".format,
            ),
            Figure(f"beyond, {name}", _beyond(by)),
        ]
    if len(result["bases"]) > 1:
        figures += [
            Figure("by both (by chance)", _both, "{} ({:.1f})".format),
            Figure("rank correlation of t", _correlation, "{:.2f}".format),
        ]
    return make_table("emergence", "", tuple(figures), result["checkpoints"])


def _with_controls(by: Basis) -> Callable[[CheckpointRow], Value]:
    def value(row: CheckpointRow) -> Value:
        test = row["tests"][by]
        means = [float(np.mean(one["discoveries"])) for one in test["controls"].values()]
        return (test["specific"], *means)

    return value


def _beyond(by: Basis) -> Callable[[CheckpointRow], Value]:
    return lambda row: row["tests"][by]["beyond"]["random"]


def _both(row: CheckpointRow) -> Value:
    rows = row["agreement"]
    return sum(one["both"] for one in rows), sum(one["both_by_chance"] for one in rows)


def _correlation(row: CheckpointRow) -> Value:
    return float(np.mean([one["spearman"] for one in row["agreement"]]))


def draw_emergence(result: EmergenceResult, path: Path) -> None:
    """Draw the number of specific experts by checkpoint, a panel per basis, with the controls."""
    rows, bases = result["checkpoints"], result["bases"]
    places = range(len(rows))
    figure, panels = subplots(1, len(bases), max(6.0, 5.5 * len(bases)), 4.6, sharey=True)
    for axis, by in zip(panels[0], bases, strict=True):
        tests = [row["tests"][by] for row in rows]
        axis.plot(places, [one["specific"] for one in tests], "o-", color="C0", label="checkpoint")
        for kind, (colour, line) in _LOOKS.items():
            found = np.array([one["controls"][kind]["discoveries"] for one in tests])
            axis.plot(places, found.mean(1), line, color=colour, label=CONTROLS[kind])
            axis.fill_between(
                places, found.min(1), found.max(1), color=colour, alpha=0.15, linewidth=0
            )
        axis.set_title(NAMES[by], loc="left")
        axis.set_xticks(list(places), [row["label"] for row in rows], rotation=30, ha="right")
    panels[0][0].set_ylim(bottom=0)  # the panels share it, so not before all is drawn
    panels[0][0].set_ylabel(f"specific experts,\nof {result['hypotheses']:,} tested")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    put_in_words_of(result.get("units"), figure)
    save(figure, path)

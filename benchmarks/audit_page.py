"""The page and the picture of the audit; see `audit.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np

from dsmoe_eval.files import write_json, write_text
from dsmoe_eval.reports.figures import save, style, subplots

EFFECTS = {"raised": "raised by half a sigma", "masked": "masked (cost)"}
ITEMS = {"same": "the items of influence", "others": "other items"}
ONLY_OF_ANSWERS = {"influence on text alone"}
"""Rows that only a model with answered questions has."""


class Measured(TypedDict):
    """A method's correlation with measured effects: mean over domains with interval, and each."""

    method: str
    effect: str
    items: str
    pearson: dict[str, float]
    spearman: dict[str, float]
    by_domain: dict[str, list[float]]


class Audit(TypedDict):
    """The audit of one model."""

    model: str
    fingerprint: str
    domains: list[str]
    experts: int
    of: int
    items: int
    resamples: int
    rows: list[Measured]
    text_with_answers: dict[str, float]


def write_audit(parts: dict[str, Audit], to: Path) -> None:
    """Write `audit.json`, the page and the picture beside it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    write_json(to, parts)
    style()
    draw_audit(parts, to.with_suffix(".png"))
    write_text(to.with_suffix(".md"), audit_page(parts))


def audit_page(parts: dict[str, Audit]) -> str:
    """Return the page in Markdown; everything in it follows from `audit.json`."""
    lines = [
        "# Which score foretells what changing single experts does?",
        "",
        "Written by `python benchmarks/audit.py`. Each expert in turn is raised by half a sigma "
        "(the spread of its layer's logits over experts) or masked, and the outcome of a domain's "
        "items is read. A method's scores are compared with the rise, and with the cost of "
        "masking, over these experts: correlations, mean over domains; in brackets 95 % intervals "
        "around them, as wide as those of resampled documents and items (on Fisher's scale). "
        "\"others\": items from which no score was computed, so that the error of the sample is in "
        "it; \"same\": the items that influence was computed from, which leaves the error of the "
        "formula.",
        "",
        "![Correlations by method](audit.png)",
    ]  # fmt: skip
    every = {row["method"] for part in parts.values() for row in part["rows"]}
    for part in parts.values():
        lines += ["", *_part(part)]
        missing = every - {row["method"] for row in part["rows"]} - ONLY_OF_ANSWERS
        if missing:
            lines += ["", f"Not audited here: {', '.join(sorted(missing))}."]
    lines += [
        "",
        "Not said: how much is gained by steering many experts; what many do together is less "
        "than their sum. The formulas of influence were first tried on `lab-poly`. No test split "
        "is read.",
        "",
    ]
    return "\n".join(lines)


def _part(part: Audit) -> list[str]:
    unit = "items" if part["text_with_answers"] else "passages"
    lines = [
        f"## {part['model']}",
        "",
        f"{part['experts']} of {part['of']} experts, domains: {', '.join(part['domains'])}; "
        f"effects on {part['items']} {unit} of each; {part['resamples']} resamples.",
        "",
        *_findings(part),
    ]
    for kind in ("pearson", "spearman"):
        heads = [f"{effect}, {items}" for effect in EFFECTS for items in ITEMS]
        lines += [
            "",
            f"| {kind.capitalize()}: method | " + " | ".join(heads) + " |",
            "|---" + "|---:" * len(heads) + "|",
        ]
        for method in methods_of(part):
            cells = [_cell(part, method, e, i, kind) for e in EFFECTS for i in ITEMS]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if part["text_with_answers"]:
        each = ", ".join(f"{d} {r:.2f}" for d, r in part["text_with_answers"].items())
        lines += [
            "",
            "What the labels were worth: Pearson's correlation of influence on the domain's text "
            f"alone with influence on its answered questions is {each}.",
        ]
    return lines


def _findings(part: Audit) -> list[str]:
    said = []
    for effect, name in EFFECTS.items():
        rows = [r for r in part["rows"] if (r["effect"], r["items"]) == (effect, "others")]
        counts = [row for row in rows if not row["method"].startswith("influence")]
        best = max(counts, key=lambda row: row["pearson"]["value"])
        first = next(row for row in rows if row["method"] == "influence")
        said.append(
            f"- Experts {name}, on other items: `influence` {_words(first)}; the best score "
            f"without gradients of the outcome, `{best['method']}`, {_words(best)} (Pearson)."
        )
    return said


def _words(row: Measured) -> str:
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["pearson"])


def methods_of(part: Audit) -> list[str]:
    """Return the methods, best first by raising on other items."""
    rows = {
        row["method"]: row["pearson"]["value"]
        for row in part["rows"]
        if (row["effect"], row["items"]) == ("raised", "others")
    }
    return sorted(rows, key=lambda method: -rows[method])


def _row(part: Audit, method: str, effect: str, items: str) -> Measured:
    (row,) = (
        one
        for one in part["rows"]
        if (one["method"], one["effect"], one["items"]) == (method, effect, items)
    )
    return row


def _cell(part: Audit, method: str, effect: str, items: str, kind: str) -> str:
    row = _row(part, method, effect, items)
    figures = row["pearson"] if kind == "pearson" else row["spearman"]
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**figures)


def draw_audit(parts: dict[str, Audit], path: Path) -> None:
    """Draw each method's Pearson correlations, a row of panels per model."""
    most = max(len(methods_of(part)) for part in parts.values())
    height = len(parts) * (1.3 + 0.36 * most)
    figure, panels = subplots(len(parts), len(EFFECTS), 11, height, sharex=True, sharey="row")
    for row, part in enumerate(parts.values()):
        names = methods_of(part)[::-1]
        for column, (effect, said) in enumerate(EFFECTS.items()):
            axis = panels[row][column]
            for items, shift, colour in (("same", 0.15, "0.55"), ("others", -0.15, "C0")):
                figures = [_row(part, name, effect, items)["pearson"] for name in names]
                places = np.arange(len(names)) + shift
                axis.hlines(
                    places, [f["low"] for f in figures], [f["high"] for f in figures], color=colour
                )
                axis.plot(
                    [f["value"] for f in figures], places, "o", color=colour, label=ITEMS[items]
                )
            axis.axvline(0, color="black", linewidth=1)
            axis.set_title(
                f"{part['model']}: {said}\n({part['experts']} experts, {part['items']} items x "
                f"{len(part['domains'])} domains)", loc="left", fontsize=11,
            )  # fmt: skip
            axis.set_yticks(range(len(names)), names)
    for axis in panels[-1]:
        axis.set_xlabel("correlation of score and measured effect (Pearson)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)

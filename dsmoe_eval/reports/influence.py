"""Rendering of experts' influence: a page with the largest entries, a heat map, the figures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..files import write_json
from ..studies.influence import CLEAR
from ..studies.influence_results import InfluenceEntry, InfluenceResult, InfluenceRow
from .figures import expert_map, style
from .run_sites import column_label
from .table import Figure, Table, make_table, markdown, words, write_markdown
from .unit_words import in_words_of

PICTURE = "influence.png"
SHOWN = 10
"""The number of experts of each domain in the table."""
_UNITS = {
    "logit": "log-odds of the router's logit",
    "weight": "unit of the weight's logarithm, before the sum is restored",
    "score": "unit of the correction bias",
    "factor": "unit of s",
}


def render_influence(result: InfluenceResult, target: Path) -> Path:
    """Write `influence.json`, `influence.md` and `influence.png`; return the page's path."""
    write_json(target / "influence.json", result)
    style()
    maps = {row["domain"]: _centred(row["influence"]).tolist() for row in result["domains"]}
    title, shown = "influence, less the layer's mean", len(result["domains"][0]["influence"][0])
    expert_map(
        {title: maps}, result["layers"], target / PICTURE, head="", label="nats per unit",
        columns=column_label(result, shown),
    )  # fmt: skip
    page = target / "influence.md"
    write_markdown(page, influence_page(result, picture=True))
    return page


def influence_page(result: InfluenceResult, *, picture: bool = False) -> str:
    """Return the page in Markdown; everything in it follows from `influence.json`."""
    every = result["experts"] * len(result["layers"])
    parts = [
        f"# What raising an expert of {result['model']['name']} does",
        f"{_form(result)} {result['source']}: {result['texts']:,} texts, {result['tokens']:,} "
        f"tokens. Values are in nats per {_UNITS[result['channel']]}.",
        "\n".join(f"- {_finding(row, every)}" for row in result["domains"]),
        *([f"![Influence by domain, layer and expert]({PICTURE})"] if picture else []),
        f"## The {SHOWN} largest of each domain",
        markdown(_largest(result)).rstrip(),
        "## How to read this",
        "\n".join(f"- {note}" for note in _NOTES),
    ]
    return in_words_of(result.get("units"), "\n\n".join(parts) + "\n")


_NOTES = (
    "influence: the mean change of the domain's outcome, per unit, when this expert alone is "
    "raised. The outcome is the log-probability of the right option, or the log-likelihood of the "
    "answer; of text the mean per token.",
    "less mean: influence less the mean over the layer's experts. Raising any expert alone often "
    "looks helpful, in all domains alike. The tables are sorted by it, and methods score by it.",
    "t: influence over its standard error by clusters, such as documents. It is not adjusted for "
    "the number of experts.",
    "These are effects to first order. What many experts do together is less than their sum.",
)


class _Entry(NamedTuple):
    domain: str
    of: InfluenceEntry

    @property
    def t(self) -> float | None:
        return self.of["influence"] / self.of["error"] if self.of["error"] else None


def _form(result: InfluenceResult) -> str:
    if "units" in result:
        return (
            f"The model is dense: its units are {result['units']}, "
            f"{result['experts'] * len(result['layers']):,} in all. Each is multiplied by 1 + s, "
            "and its slope at s = 0 is shown; it is the same in both forms."
        )
    if result["form"] == "gradient":
        return "The gradient, while no selection changes."
    unit = "of each layer's logit spread" if result["unit"] == "sigma" else "log-odds"
    if result["channel"] != "logit":
        unit = "units"
    return f"Each router selects again, with one expert raised by {result['step']:g} {unit}."


def _finding(row: InfluenceRow, every: int) -> str:
    size = f"{row['items']:,} items in {row['clusters']:,} clusters"
    text = f"{row['domain']}: mean outcome {row['outcome']:.3f} nats ({size}); "
    if row["above"] is None:
        return text + "one cluster has no standard error, so nothing can be said of chance."
    return text + (
        f"of {every:,} experts {row['above']:,} have t above {CLEAR:g} and {row['below']:,} below "
        f"-{CLEAR:g} (by chance about {_by_chance(row, every):,.0f} each)."
    )


def _by_chance(row: InfluenceRow, every: int) -> float:
    """Return how many experts without influence have t above `CLEAR`, by Student's distribution.

    With a few clusters they are many: 2.9 % with three.
    """
    return every * float(student.sf(CLEAR, row["clusters"] - 1))


def _centred(influence: list[list[float]]) -> NDArray[np.float64]:
    values = np.array(influence)
    centred: NDArray[np.float64] = values - values.mean(-1, keepdims=True)
    return centred


def _largest(result: InfluenceResult) -> Table:
    entries = [
        _Entry(row["domain"], one) for row in result["domains"] for one in row["largest"][:SHOWN]
    ]
    return make_table("largest", "", _COLUMNS, entries)


_COLUMNS: tuple[Figure[_Entry], ...] = (
    words("domain", lambda one: one.domain),
    Figure("layer", lambda one: one.of["layer"]),
    Figure("expert", lambda one: one.of["expert"]),
    Figure("influence", lambda one: one.of["influence"], "{:+.4f}".format),
    Figure("less mean", lambda one: one.of["centred"], "{:+.4f}".format),
    Figure("t", lambda one: one.t, "{:+.1f}".format),
)

"""Rendering of experts' influence: a page with the largest entries, a heat map, the figures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import write_json
from ..studies.results import InfluenceResult, InfluenceRow
from .figures import expert_map, style
from .table import Figure, Table, make_table, markdown, words, write_markdown

PICTURE = "influence.png"
SHOWN = 10
"""The number of experts of each domain in the table."""
CLEAR = 4.0
"""The size of t that the page counts: of 10,000 experts without influence, fewer than one."""
_UNITS = {
    "logit": "log-odds of the router's logit",
    "weight": "unit of the weight's logarithm, before the sum is restored",
    "score": "unit of the correction bias",
}


def render_influence(result: InfluenceResult, target: Path) -> Path:
    """Write `influence.json`, `influence.md` and `influence.png`; return the page's path."""
    write_json(target / "influence.json", result)
    style()
    maps = {row["domain"]: _centred(row["influence"]).tolist() for row in result["domains"]}
    title = "influence, less the layer's mean"
    expert_map({title: maps}, result["layers"], target / PICTURE, head="", label="nats per unit")
    page = target / "influence.md"
    write_markdown(page, influence_page(result, picture=True))
    return page


def influence_page(result: InfluenceResult, *, picture: bool = False) -> str:
    """Return the page in Markdown; everything in it follows from `influence.json`."""
    parts = [
        f"# What raising an expert of {result['model']['name']} does",
        f"{_form(result)} {result['source']}: {result['texts']:,} texts, {result['tokens']:,} "
        f"tokens. Values are in nats per {_UNITS[result['channel']]}.",
        "\n".join(f"- {_finding(row)}" for row in result["domains"]),
        *([f"![Influence by domain, layer and expert]({PICTURE})"] if picture else []),
        f"## The {SHOWN} largest of each domain",
        markdown(_largest(result)).rstrip(),
        "## How to read this",
        "\n".join(f"- {note}" for note in _NOTES),
    ]
    return "\n\n".join(parts) + "\n"


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
    layer: int
    expert: int
    value: float
    centred: float
    error: float | None

    @property
    def t(self) -> float | None:
        return self.value / self.error if self.error else None


def _form(result: InfluenceResult) -> str:
    if result["form"] == "gradient":
        return "The gradient, while no selection changes."
    unit = "of each layer's logit spread" if result["unit"] == "sigma" else "log-odds"
    if result["channel"] != "logit":
        unit = "units"
    return f"Each router selects again, with one expert raised by {result['step']:g} {unit}."


def _finding(row: InfluenceRow) -> str:
    size = f"{row['items']:,} items in {row['clusters']:,} clusters"
    text = f"{row['domain']}: mean outcome {row['outcome']:.3f} nats ({size}); "
    if row["error"] is None:
        return text + "one cluster has no standard error, so nothing can be said of chance."
    t = _t(row)
    above, below = int((t > CLEAR).sum()), int((t < -CLEAR).sum())
    return text + (
        f"of {t.size:,} experts {above} have t above {CLEAR:g} and {below} below -{CLEAR:g}."
    )


def _t(row: InfluenceRow) -> NDArray[np.float64]:
    mean, error = np.array(row["influence"]), np.array(row["error"], dtype=np.float64)
    t: NDArray[np.float64] = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    return t


def _centred(influence: list[list[float]]) -> NDArray[np.float64]:
    values = np.array(influence)
    centred: NDArray[np.float64] = values - values.mean(-1, keepdims=True)
    return centred


def _largest(result: InfluenceResult) -> Table:
    entries = [one for row in result["domains"] for one in _entries(row, result["layers"])]
    return make_table("largest", "", _COLUMNS, entries)


_COLUMNS: tuple[Figure[_Entry], ...] = (
    words("domain", lambda one: one.domain),
    Figure("layer", lambda one: one.layer),
    Figure("expert", lambda one: one.expert),
    Figure("influence", lambda one: one.value, "{:+.4f}".format),
    Figure("less mean", lambda one: one.centred, "{:+.4f}".format),
    Figure("t", lambda one: one.t, "{:+.1f}".format),
)


def _entries(row: InfluenceRow, layers: list[int]) -> list[_Entry]:
    centred, error = _centred(row["influence"]), row["error"]
    order = np.argsort(-centred, axis=None, kind="stable")[:SHOWN]
    return [
        _Entry(
            row["domain"],
            layers[at],
            int(expert),
            row["influence"][at][expert],
            float(centred[at, expert]),
            None if error is None else error[at][expert],
        )
        for at, expert in zip(*np.unravel_index(order, centred.shape), strict=True)
    ]

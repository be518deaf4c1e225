"""Rendering of the existence test by influence, or by counts and influence side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..files import write_json
from ..studies.existence_maps import ExistenceMaps
from ..studies.map_results import MapAgreementRow
from ..studies.results import Basis, ExistenceResult
from . import formats, study_figures
from .existence import (
    EXPERTS_SHOWN,
    beyond_by_domain,
    existence_findings,
    render_existence,
    specific_by_domain,
    top_experts,
    units_finding,
)
from .figures import name_ticks, save, style, subplots
from .render import markdown_environment
from .table import Figure, Table, make_table, words, write_markdown
from .unit_words import in_words_of, put_in_words_of

NAMES: dict[Basis, str] = {"counts": "by counts", "influence": "by influence"}
_COLOURS: dict[Basis, str] = {"counts": "C0", "influence": "C1"}


def render_existence_maps(maps: ExistenceMaps, to: Path) -> Path:
    """Write the results of `existence_maps` into a folder; return the path of `existence.md`.

    Beside the page: `existence.json`; a picture per basis; with both bases `existence.png`, which
    shows where their experts are.
    """
    if list(maps.tests) == ["counts"]:
        return render_existence(maps.tests["counts"], to)
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "existence.json", maps.content())
    style()
    both, parts = len(maps.tests) > 1, []
    for by, result in maps.tests.items():
        picture = f"{by}.png" if both else "existence.png"
        study_figures.existence_map(result, to / picture)
        parts.append(_part(by, result, picture))
    if both:
        draw_maps(maps, to / "existence.png")
    last = next(reversed(maps.tests.values()))
    values = {
        "result": last,
        "parts": parts,
        "agreement": map_agreement_table(maps.agreement) if both else None,
        "said": agreement_finding(maps),
        "shown": f"The {EXPERTS_SHOWN} with the largest t of each domain.",
    }
    page = markdown_environment().get_template("existence_maps.md.j2")
    write_markdown(to / "existence.md", in_words_of(last.get("units"), page.render(values)))
    return to / "existence.md"


def _part(by: Basis, result: ExistenceResult, picture: str) -> dict[str, object]:
    return {
        "by": by,
        "name": NAMES[by],
        "picture": picture,
        "findings": [*units_finding(result), *existence_findings(result)],
        "domains": specific_by_domain(result),
        "beyond": beyond_by_domain(result),
        "experts": top_experts(result),
    }


def agreement_finding(maps: ExistenceMaps) -> str:
    """Return in one sentence how far the experts by influence are those by counts."""
    rows = maps.agreement
    if not rows:
        return ""
    both, chance = sum(row["both"] for row in rows), sum(row["both_by_chance"] for row in rows)
    by_counts, by_influence = (
        sum(row["by_counts"] for row in rows), sum(row["by_influence"] for row in rows)
    )  # fmt: skip
    mean = np.mean([row["spearman"] for row in rows])
    shown = [row["domain"] for row in rows if row["p_value"] <= 0.05 / len(rows)]
    more = (
        f"more than blind sets would share in: {', '.join(shown)}"
        if shown
        else "in no domain more than blind sets of these sizes would share (5 %, Bonferroni)"
    )
    return (
        f"Of {by_counts} specific experts by counts and {by_influence} by influence {both} are the "
        f"same, where {chance:.1f} would be by chance; {more}. The two maps of t have a rank "
        f"correlation of {mean:.2f} in the mean of the domains."
    )


_AGREEMENT: tuple[Figure[MapAgreementRow], ...] = (
    words("domain", lambda row: row["domain"]),
    Figure("rank correlation of t", lambda row: (row["spearman"], *row["spearman_ci95"]),
        "{:.2f} [{:.2f}, {:.2f}]".format),
    Figure("specific by counts", lambda row: row["by_counts"]),
    Figure("by influence", lambda row: row["by_influence"]),
    Figure("by both", lambda row: row["both"]),
    Figure("by chance", lambda row: row["both_by_chance"], formats.decimal),
    Figure("p", lambda row: row["p_value"], formats.hundredths),
)  # fmt: skip


def map_agreement_table(rows: tuple[MapAgreementRow, ...]) -> Table:
    """Return how far the two maps agree, one row per domain."""
    return make_table("agreement", "", _AGREEMENT, rows)


def draw_maps(maps: ExistenceMaps, path: Path) -> None:
    """Draw where the specific experts of each domain are, by counts above those by influence."""
    result = next(iter(maps.tests.values()))
    rows, layers = result["domains"], result["layers"]
    figure, panels = subplots(1, 1, 14, 1.8 + 0.55 * len(rows))
    axis = panels[0][0]
    for (by, test), end in zip(maps.tests.items(), (-0.4, 0.4), strict=True):
        _ticks(axis, test, by, end)
    for edge in range(1, len(layers)):
        axis.axvline(edge - 0.5, color="0.6", linewidth=min(1.0, 12 / len(layers)))
    for place in range(1, len(rows)):
        axis.axhline(place - 0.5, color="0.85", linewidth=0.8)
    axis.grid(visible=False)
    axis.set_yticks(range(len(rows)), [row["domain"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-0.5, len(layers) - 0.5)
    name_ticks(axis.xaxis, layers)
    axis.set_xlabel(f"layer, each with its {result['experts']} experts")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    put_in_words_of(result.get("units"), figure)
    save(figure, path)


def _ticks(axis: Axes, test: ExistenceResult, by: Basis, end: float) -> None:
    """Draw a line for each specific expert, from the middle of the domain's row to its edge."""
    layers, experts = test["layers"], test["experts"]
    for place, row in enumerate(test["domains"]):
        at = [
            layers.index(one["layer"]) - 0.5 + (one["expert"] + 0.5) / experts
            for one in row["specific"]
        ]
        axis.vlines(
            at, place, place + end, color=_COLOURS[by], linewidth=4 if len(layers) < 8 else 1.5,
            label="" if place else f"specific {NAMES[by]}",
        )  # fmt: skip

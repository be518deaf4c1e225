"""Renders a finished run: `index.html` with its items, `report.md` and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ..files import read_json, write_text
from ..results import RunFolder, read_finished
from . import figures, page, run_page, run_plots, tables
from .items import clear_items, write_item_files
from .tables import Grid

FIGURES = (
    (
        "forest.png",
        "What each variant changed, with 95 % intervals",
        "Left: the target's questions; right: all non-target questions of the same arm, pooled. A "
        "filled dot on the left is a gain that stands after Holm's correction. Look for rows that "
        "are right of zero on the left and right of the red line (the margin) on the right.",
    ),
    (
        "tradeoff.png",
        "Gain against loss as strength grows (tuning split)",
        "Each line is one number of experts; strength grows along it. Steering that helps climbs "
        "before it drifts left; left of the red line it costs more than the margin. The star is "
        "the setting that the plan's rule chose and the test split was asked with.",
    ),
    (
        "experts.png",
        "Experts' scores by layer and domain",
        "Every column is one expert. A domain that has experts of its own shows red cells that no "
        "other row shares; a method that finds the same columns for every domain has found busy "
        "experts, not domain experts.",
    ),
    (
        "routing.png",
        "Where the routing went",
        "Change of each expert's share of the target's tuning questions, steered minus base. "
        "Reweighting cannot change the selection in the layer where it acts, only in later ones.",
    ),
)
"""File, title, caption."""


def render(folder: RunFolder, to: Path | None = None) -> Path:
    """Write the report and return the path of `report.md`.

    `index.html` holds everything but the items, which lie in `items/` beside it.

    Raises:
        UserError: the run has no comparisons yet, or they or a cell are damaged or of another
            version.
    """
    result = dict(read_finished(folder.root).data)
    target = to or folder.report
    target.mkdir(parents=True, exist_ok=True)
    clear_items(target)
    shown = _draw(folder, result, target)
    said = _said(result)
    html = page.environment().get_template("report.html.j2")
    markdown = environment().get_template("report.md.j2")
    write_text(target / "index.html", html.render(said | _page(folder, result, target, shown)))
    write_text(target / "report.md", markdown.render(said | _grids(folder, result, shown)))
    return target / "report.md"


def _said(result: dict[str, Any]) -> dict[str, Any]:
    """What both forms of the report say in sentences."""
    return {
        "result": result,
        "findings": tables.findings(result),
        "caveats": tables.caveats(result),
        "glossary": tables.glossary(result),
        "overlap_warning": tables.overlap_warning(result),
        "leakage_check": tables.leakage_check(result),
        "leakage_rules": tables.leakage_rules(result),
    }


def _grids(folder: RunFolder, result: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    return {
        "leaderboard": tables.leaderboard(result),
        "details": tables.details(result),
        "settings": tables.settings(result),
        "generalization": tables.generalization(result),
        "domains": tables.by_domain(result),
        "domain_details": tables.domain_details(result),
        "answers": tables.answers(result),
        "figures": [figure for figure in FIGURES if figure[0] in shown],
        "probes": _probes(folder),
    }


def _page(
    folder: RunFolder, result: dict[str, Any], target: Path, shown: list[str]
) -> dict[str, Any]:
    return {
        "leaderboard": run_page.leaderboard(result),
        "details": run_page.details(result),
        "settings": run_page.settings(result),
        "generalization": run_page.generalization(result),
        "domains": run_page.by_domain(result),
        "domain_details": run_page.domain_details(result),
        "answers": run_page.answers(result),
        "probes": run_page.probes(result, _probes(folder)),
        "facets": run_page.facets(result),
        "forests": run_plots.forests(result),
        "plane": run_plots.plane(result),
        "pictures": _pictures(folder, target, shown),
        "files": write_item_files(folder, result, target),
    }


def _pictures(folder: RunFolder, target: Path, shown: list[str]) -> list[page.Picture]:
    """The pictures that are not drawn in the page itself."""
    alts = {"experts.png": experts_in_words(read_json(folder.identification))}
    return [
        page.Picture(page.embed(target / file), alts.get(file, title), title, caption)
        for file, title, caption in FIGURES
        if file in shown and file != "forest.png"
    ]


def experts_in_words(identification: Mapping[str, Any]) -> str:
    """The map of experts for who does not see it: what it shows, and each row's highest score."""
    layers, found = identification["layers"], []
    for method, by_domain in identification["scores"].items():
        best = []
        for domain, scores in by_domain.items():
            table = np.asarray(scores)
            row, expert = np.unravel_index(int(table.argmax()), table.shape)
            best.append(f"{domain} layer {layers[row]} expert {expert} ({table.max():.3g})")
        found.append(f"method {method}: {', '.join(best)}")
    return (
        "Heat maps, one a method: a row a domain, a column an expert of a layer, red above zero, "
        f"blue below. The highest score of each row, by {'; by '.join(found)}."
    )


def _draw(folder: RunFolder, result: dict[str, Any], target: Path) -> list[str]:
    figures.style()
    figures.forest(result, target / "forest.png")
    identification = read_json(folder.identification)
    figures.expert_map(identification, target / "experts.png")
    shown = ["forest.png", "experts.png"]
    trials = _trials(folder, result)
    if not trials.empty:
        figures.tradeoff(trials, result["margin"], target / "tradeoff.png")
        shown.append("tradeoff.png")
    shifts = _shifts(folder, result)
    if shifts:
        figures.routing_shift(shifts, identification["layers"], target / "routing.png")
        shown.append("routing.png")
    return shown


def _trials(folder: RunFolder, result: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for arm in result["arms"]:
        path = folder.tuning(arm["variant"], arm["target"])
        if not path.is_file():
            continue
        tuned = read_json(path)
        for trial in tuned["trials"]:
            chosen = all(trial[key] == tuned["chosen"][key] for key in ("experts", "strength"))
            rows.append(
                trial | {"variant": arm["variant"], "target": arm["target"], "chosen": chosen}
            )
    return pd.DataFrame(rows)


def _shifts(folder: RunFolder, result: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Change of shares for every steered arm that claims something."""
    shifts = {}
    for arm in result["arms"]:
        path = folder.routing(arm["variant"], arm["target"])
        if path.is_file() and arm["settings"]["strength"] > 0:
            shares = read_json(path)
            shift = np.array(shares["steered"]) - np.array(shares["base"])
            shifts[arm["variant"], arm["target"]] = shift
    return shifts


def _probes(folder: RunFolder) -> Grid:
    """The probes' figures, a row a steered arm."""
    header = (
        "variant", "target", "null: largest difference", "selections changed",
        "largest change of a weight", "largest change of a logit", "experts a token",
    )  # fmt: skip
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for path in sorted((folder.root / "cells").glob("*/cell.json")):
        cell = read_json(path)
        probe, key = cell["probe"], (cell["identity"]["variant"], cell["identity"]["target"])
        if probe is not None:
            rows[key] = (
                *key,
                _figure(probe["null_max_difference"], "g"),
                _figure(probe["selection_changed"], ".1%"),
                _figure(probe.get("weight_max_change"), ".3f"),  # vLLM's probe has none
                _figure(probe["logit_max_change"], ".2f"),
                _figure(probe["active_experts"], "d"),
            )
    return Grid(header, tuple(rows[key] for key in sorted(rows)))


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def environment() -> jinja2.Environment:
    """Of the Markdown templates; a name that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dsmoe_eval.reports"),
        autoescape=False,  # noqa: S701 - it would spoil Markdown; pages are `page.environment`'s
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )

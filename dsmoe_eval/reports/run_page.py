"""The tables of a run's `index.html`, with their sources, and what they are filtered by.

The figures are those of `tables.py`; here each is told where it comes from, and what it is sorted
and filtered by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import tables
from .page import (
    Cell,
    Column,
    DataTable,
    Facets,
    Row,
    collect_facets,
)
from .tables import Arm, Grid

_NUMBER = re.compile(r"(?:< )?([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?!\w)")
_WORDS = frozenset({"variant", "target", "domain", "of", "profile", "test", "held", "qualified"})
"""Columns that are not numbers, whatever they hold."""
_NO_NUMBER = frozenset({"", "no claim", "target"})
"""What stands in a cell for which there is nothing in the file."""

_PAIRED = {
    "n": "n", "base": "score_a", "variant's": "score_b", "change": "delta",
    "95 % interval": "ci95", "p": "p_value", "gained": "gained", "lost": "lost",
    "smallest effect": "mde80", "p (Holm)": "p_adjusted", "test": "test",
}  # fmt: skip
_DETAILS = {name: f"target_result.{place}" for name, place in _PAIRED.items()} | {
    "non-target n": "non_target_result.n",
    "non-target change": "non_target_result.delta",
    "one-sided bound": "non_target_result.non_inferiority.lower_bound",
    "held": "non_target_result.non_inferiority.holds",
}
_CLAIMS = {
    "on it": "target_result.claim",
    "on non-targets": "non_target_result.claim",
    "beyond placebo": "generalization.over_placebo",
    "beyond wrong domain": "generalization.specificity",
    "worst domain": "generalization.non_target_change.worst",
    "domains all hold": "generalization.all_hold",
    "domains that fell": "generalization.regressions",
    "retention": "generalization.retention",
    "flipped": "generalization.flipped",
    "tokens": "generalization.tokens_ratio",
}
_SETTINGS = {
    "experts": "settings.experts",
    "share of activations": "settings.activation_share",
    "strength": "settings.strength",
    "alpha": "1 + settings.strength",
    "qualified": "settings.qualified_on_tuning",
    "profile": "profile",
}
_ANSWERS = {
    "n": "answers.n", "tokens": "answers.a and .b.mean_tokens",
    "truncated": "answers.a and .b.truncated", "invalid": "answers.a and .b.invalid",
    "change": "delta", "both in full": "answers.both_whole.n",
    "change of these": "answers.both_whole.delta",
}  # fmt: skip
"""Column -> its place in an arm of `comparisons.json`, or in the part that the row is of."""

_MARKS = ("gain ▲", "loss ▼", "neither", "held", "not held")

Trace = Callable[[str], str]
"""Column -> where its number comes from; empty where it is none."""


def number_of(text: str) -> float | None:
    """The number that a cell's text begins with, by which it is sorted; None: it has none."""
    found = _NUMBER.match(text)
    return None if found is None else float(found[1].replace(",", ""))


def leaderboard(result: dict[str, Any]) -> DataTable:
    """One row a variant; `tables.leaderboard`."""
    grid, alpha = tables.leaderboard(result), result["alpha"]
    rows = [_row(grid, grid.rows[0], {}, _base_trace(result), sort=False)]
    for cells in grid.rows[1:]:
        arms = {arm["target"]: arm for arm in tables.arms_of(result, cells[0])}
        marks = dict.fromkeys(mark for arm in arms.values() for mark in _marks(arm, alpha))
        facets = {"variant": (cells[0],), "mark": tuple(marks)}
        kinds = {target: kind_of(arm, alpha) for target, arm in arms.items()}
        rows.append(_row(grid, cells, facets, _variant_trace(cells[0], arms), kinds))
    caption = (
        f"Change against base, percentage points. ▲ ▼: Holm-adjusted p < {alpha} "
        f"({result['family']}). held: pooled non-targets non-inferior at {_margin(result)} pp."
    )
    return DataTable("leaderboard", caption, _columns(grid), tuple(rows))


def _base_trace(result: dict[str, Any]) -> Trace:
    tasks = {row["domain"]: row["task"] for row in result["base"] if row["role"] == "target"}

    def trace(column: str) -> str:
        if column in tasks:
            return f"comparisons.json: base[{tasks[column]}].score"
        return (
            "comparisons.json: base, non-targets, score weighted by n" if "worst" in column else ""
        )

    return trace


def _variant_trace(variant: str, arms: Mapping[str, Arm]) -> Trace:
    counted = {
        "targets improved": "count of target_result.p_adjusted < alpha with delta > 0",
        "non-targets, worst": "least non_target_result.delta",
        "held": "count of non_target_result.non_inferiority.holds",
    }

    def trace(column: str) -> str:
        if column in arms:
            return trace_of(arms[column], "target_result.delta")
        return f"comparisons.json: arms[{variant}]: {counted[column]}" if column in counted else ""

    return trace


def details(result: dict[str, Any]) -> DataTable:
    """One row an arm, every figure; `tables.details`."""
    caption = (
        "p: two-sided, against base on the same items, by the test named in the last column. "
        "Single right-or-wrong answers to items on their own: mid-p McNemar with Tango's score "
        "interval. Means of several answers, and items that share a question: sign-flip "
        "permutation of whole clusters with a BCa bootstrap interval. Smallest effect: at 80 % "
        "power and the observed discordance or spread; one-sided bound: of the non-target change, "
        f"at level {result['alpha'] / 2:g}."
    )
    alpha = result["alpha"]
    kinds = {"change": lambda arm: kind_of(arm, alpha)}
    return _of_arms(
        "arms", tables.details(result), caption, result, result["arms"], _DETAILS, kinds
    )


def generalization(result: dict[str, Any]) -> DataTable:
    """What each arm may claim; `tables.generalization`."""
    caption = (
        f"Improves, harms: Holm-adjusted p at most {result['alpha']}, among all arms of the plan; "
        f"equivalent: the 95 % interval lies inside {_margin(result)} pp; else inconclusive. "
        "Beyond placebo, beyond wrong domain: on the target, against the arm's own control on the "
        "same items. Domains all hold: every non-target domain is non-inferior at the margin "
        "(intersection-union test); domains that fell: a drop with Holm-adjusted p at most "
        f"{result['alpha']} among the arm's domains. Flipped: items whose score changed either "
        "way, on the target and elsewhere. Tokens: generated, over base's."
    )
    arms = [arm for arm in result["arms"] if "claim" in arm["target_result"]]
    return _of_arms("claims", tables.generalization(result), caption, result, arms, _CLAIMS)


def settings(result: dict[str, Any]) -> DataTable:
    """What tuning chose; `tables.settings`."""
    caption = (
        "Chosen on the tuning split by the plan's rule, before the test split was read. Share of "
        "activations: how much of all routing, over the identification text of every domain, falls "
        "on the chosen experts; a placebo whose share is far from that of the arm it controls is a "
        "weak placebo."
    )
    arms = [arm for arm in result["arms"] if arm["profile"]]
    return _of_arms("settings", tables.settings(result), caption, result, arms, _SETTINGS)


def by_domain(result: dict[str, Any]) -> DataTable:
    """Change of each non-target domain; `tables.by_domain`."""
    grid = tables.by_domain(result)
    places = {name: f"domains[{name}].delta" for name in grid.header[2:]}
    caption = "Change against base, percentage points."
    return _of_arms("domains", grid, caption, result, result["arms"], places)


def domain_details(result: dict[str, Any]) -> DataTable:
    """One row an arm and non-target domain; `tables.domain_details`."""
    grid = tables.domain_details(result)
    pairs = [(arm, row) for arm in result["arms"] for row in arm["domains"]]
    rows = []
    for cells, (arm, own) in zip(grid.rows, pairs, strict=True):
        facets = facets_of(arm, result["alpha"])
        facets["domain"] = tuple(dict.fromkeys((arm["target"], own["domain"])))
        rows.append(
            _row(grid, cells, facets, _placed(arm, _PAIRED, f"domains[{own['domain']}]", own))
        )
    caption = "The same tests as above, by domain; these p-values are exploratory and not adjusted."
    return DataTable("domain-details", caption, _columns(grid), tuple(rows))


def answers(result: dict[str, Any]) -> DataTable:
    """What generated answers took; `tables.answers`."""
    grid, rows = tables.answers(result), []
    arms = {(arm["variant"], arm["target"]): arm for arm in result["arms"]}
    for cells in grid.rows:
        arm = arms[cells[0], cells[1]]
        part = "target_result" if cells[2] == "target" else "non_target_result"
        trace = _placed(arm, _ANSWERS, part, arm[part])
        rows.append(_row(grid, cells, facets_of(arm, result["alpha"]), trace))
    caption = (
        "Base to variant. Truncated: ended by the limit of tokens. Invalid: the task's own rule of "
        "extraction finds no answer. Both in full: items on which no answer of base or variant is "
        "either; a gain that is not there among them is one of format or length."
    )
    return DataTable("answers", caption, _columns(grid), tuple(rows))


def probes(result: dict[str, Any], grid: Grid) -> DataTable:
    """The probes' figures, a row a steered arm; the columns of `grid` are `render.py`'s."""
    places = dict(zip(grid.header[2:], (
        "null_max_difference", "selection_changed", "weight_max_change", "logit_max_change",
        "active_experts",
    ), strict=True))  # fmt: skip
    arms = {(arm["variant"], arm["target"]): arm for arm in result["arms"]}
    rows = []
    for cells in grid.rows:
        facets = facets_of(arms[cells[0], cells[1]], result["alpha"])
        rows.append(_row(grid, cells, facets, _probe_trace(cells[0], cells[1], places)))
    caption = (
        "Null: strength zero must give the same bits. Effect: a profile must change what the "
        "experts receive and move the outputs. A run whose probe fails stops."
    )
    return DataTable("probes", caption, _columns(grid), tuple(rows))


def _probe_trace(variant: str, target: str, places: Mapping[str, str]) -> Trace:
    where = f"cells/*/cell.json of {variant} on {target}: probe"
    return lambda column: f"{where}.{places[column]}" if column in places else ""


def facets(result: dict[str, Any]) -> Facets:
    """What the page can be filtered by, and each facet's values."""
    domains = {"domain": tuple(row["domain"] for row in result["base"])}
    arms = (facets_of(arm, result["alpha"]) for arm in result["arms"])
    found = collect_facets([*arms, domains])
    return found | {"mark": tuple(mark for mark in _MARKS if mark in found["mark"])}


def _of_arms(
    name: str,
    grid: Grid,
    caption: str,
    result: dict[str, Any],
    arms: Sequence[Arm],
    places: Mapping[str, str],
    kinds: Mapping[str, Callable[[Arm], str]] | None = None,
) -> DataTable:
    """A table whose rows are these arms."""
    rows = tuple(
        _row(
            grid,
            cells,
            facets_of(arm, result["alpha"]),
            _placed(arm, places),
            {column: kind(arm) for column, kind in (kinds or {}).items()},
        )
        for cells, arm in zip(grid.rows, arms, strict=True)
    )
    return DataTable(name, caption, _columns(grid), rows)


def _placed(
    arm: Arm, places: Mapping[str, str], within: str = "", part: Mapping[str, Any] | None = None
) -> Trace:
    """Traces of a row of one arm, or of a part of it that has a test of its own."""

    def trace(column: str) -> str:
        if column not in places:
            return ""
        return trace_of(arm, f"{within}.{places[column]}" if within else places[column], part)

    return trace


def trace_of(arm: Arm, place: str, part: Mapping[str, Any] | None = None) -> str:
    """Where a figure of an arm stands, and its test; `part` is what it is of, where not `place`."""
    own = part if part is not None else arm.get(place.split(".")[0])
    test = own.get("test") if isinstance(own, Mapping) else None
    if test and "non_inferiority" in place and isinstance(own, Mapping):
        test = own["non_inferiority"]["test"]
    where = f"comparisons.json: arms[{arm['variant']}, {arm['target']}].{place}"
    return f"{where}; {test}" if test else where


def _row(
    grid: Grid,
    cells: Sequence[str],
    facets: Facets,
    trace: Trace,
    kinds: Mapping[str, str] | None = None,
    *,
    sort: bool = True,
) -> Row:
    """A row; without `sort` its numbers are of another kind, and it comes after the others."""
    return Row(
        tuple(
            Cell(
                text,
                number_of(text) if sort and _is_numeric(grid, place) else None,
                "" if text in _NO_NUMBER else trace(name),
                (kinds or {}).get(name, ""),
            )
            for place, (name, text) in enumerate(zip(grid.header, cells, strict=True))
        ),
        facets,
    )


def _columns(grid: Grid) -> tuple[Column, ...]:
    return tuple(Column(name, _is_numeric(grid, place)) for place, name in enumerate(grid.header))


def _is_numeric(grid: Grid, place: int) -> bool:
    name = grid.header[place]
    return name not in _WORDS and any(number_of(row[place]) is not None for row in grid.rows)


def facets_of(arm: Arm, alpha: float) -> Facets:
    """What an arm is found by."""
    return {
        "variant": (arm["variant"],),
        "domain": (arm["target"],),
        "mark": _marks(arm, alpha),
    }


def _marks(arm: Arm, alpha: float) -> tuple[str, str]:
    gain = {"good": "gain ▲", "bad": "loss ▼", "": "neither"}[kind_of(arm, alpha)]
    return gain, "held" if tables.holds(arm) else "not held"


def kind_of(arm: Arm, alpha: float) -> str:
    """`good` for a gain that stands, `bad` for a loss that does."""
    return "good" if tables.improves(arm, alpha) else "bad" if tables.harms(arm, alpha) else ""


def _margin(result: Mapping[str, Any]) -> str:
    return f"{100 * result['margin']:g}"

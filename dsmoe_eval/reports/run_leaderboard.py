"""The first table of a run's report: what each variant changed on all its targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..results.arms import Arm
from ..results.schema import RunResult
from . import formats
from .run_arms import (
    arms_of,
    improves,
    is_non_inferior,
    kind_of,
    lacks_items,
    marks_of,
    sign_of,
    target_part,
    targets_of,
    variants_of,
)
from .table import Cell, Facets, Figure, Row, Table, make_table, words


def variants_table(result: RunResult) -> Table:
    """Return one row per variant: target changes, then non-target changes."""
    level, margin = result.significance_level, formats.margin(result.margin)
    caption = (
        f"Change against base, percentage points. ▲ ▼: Holm-adjusted p < {level} "
        f"({result.family}). non-inferior: pooled non-targets, at {margin} pp; too few items: all "
        "scores are base's, which so few items cannot show."
    )
    figures = (
        words("variant", _variant),
        *(_target_change(place, name, level) for place, name in enumerate(targets_of(result))),
        *_counted(level),
    )
    variants = [arms_of(result, name) for name in variants_of(result)]
    table = make_table("leaderboard", caption, figures, variants, partial(_marked, level=level))
    return Table(table.id, caption, table.columns, (_base_row(result), *table.rows))


def _variant(arms: Sequence[Arm]) -> str:
    return arms[0].variant


def _target_change(place: int, name: str, level: float) -> Figure[Sequence[Arm]]:
    return Figure(
        name,
        lambda arms: (arms[place].target_result.delta, sign_of(arms[place], level)),
        formats.pp,
        lambda arms: target_part(arms[place]).source("delta"),
        kind=lambda arms: kind_of(arms[place], level),
    )


def _counted(level: float) -> tuple[Figure[Sequence[Arm]], ...]:
    def source(rule: str) -> Callable[[Sequence[Arm]], str]:
        return lambda arms: f"comparisons.json: arms[{_variant(arms)}]: {rule}"

    return (
        Figure("targets improved",
            lambda arms: (sum(improves(arm, level) for arm in arms), len(arms)), formats.share_of,
            source("count of target_result.p_adjusted < level with delta > 0")),
        Figure("non-targets, worst", lambda arms: min(a.non_target_result.delta for a in arms),
            formats.pp, source("least non_target_result.delta")),
        Figure("non-inferior", _non_inferior, str,
            source("count of non_target_result.non_inferiority.non_inferior"), numeric=False),
    )  # fmt: skip


def _non_inferior(arms: Sequence[Arm]) -> str:
    few = sum(map(lacks_items, arms))
    shown = formats.share_of(sum(map(is_non_inferior, arms)), len(arms))
    return f"{shown} ({few}: too few items)" if few else shown


def _marked(arms: Sequence[Arm], level: float) -> Facets:
    marks = dict.fromkeys(mark for arm in arms for mark in marks_of(arm, level))
    return {"variant": (_variant(arms),), "mark": tuple(marks)}


def _base_row(result: RunResult) -> Row:
    """Return base's scores, which are not changes."""
    own = {row.domain: row for row in result.base if row.role == "target"}
    others = [row for row in result.base if row.role == "non-target"]
    items = sum(row.n for row in others)  # none where every task is some arm's target
    scores = (
        Cell(
            own[target].score,
            formats.percent,
            f"comparisons.json: base[{own[target].task}].score",
        )
        for target in targets_of(result)
    )
    source = "comparisons.json: base, non-targets, score weighted by n"
    pooled = Cell()
    if items:
        score = sum(row.score * row.n for row in others) / items
        pooled = Cell(score, formats.percent, source)
    rest = (Cell(), pooled, Cell())
    return Row((Cell("base (score)"), *scores, *rest), apart=True)

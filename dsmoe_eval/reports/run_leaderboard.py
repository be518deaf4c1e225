"""The first table of a run's report: what each variant changed on all its targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..results.arms import Arm
from ..results.schema import RunResult
from . import formats
from .run_arms import (
    arms_of,
    holds,
    improves,
    kind_of,
    marks_of,
    sign_of,
    target_part,
    targets_of,
    variants_of,
)
from .table import Cell, Facets, Figure, Row, Table, make_table, words


def leaderboard(result: RunResult) -> Table:
    """Return one row per variant: target changes, then non-target changes."""
    alpha, margin = result.alpha, formats.margin(result.margin)
    caption = (
        f"Change against base, percentage points. ▲ ▼: Holm-adjusted p < {alpha} "
        f"({result.family}). held: pooled non-targets non-inferior at {margin} pp."
    )
    figures = (
        words("variant", _variant),
        *(_target_change(place, name, alpha) for place, name in enumerate(targets_of(result))),
        *_counted(alpha),
    )
    variants = [arms_of(result, name) for name in variants_of(result)]
    table = make_table("leaderboard", caption, figures, variants, partial(_marked, alpha=alpha))
    return Table(table.id, caption, table.columns, (_base_row(result), *table.rows))


def _variant(arms: Sequence[Arm]) -> str:
    return arms[0].variant


def _target_change(place: int, name: str, alpha: float) -> Figure[Sequence[Arm]]:
    return Figure(
        name,
        lambda arms: (arms[place].target_result.delta, sign_of(arms[place], alpha)),
        formats.pp,
        lambda arms: target_part(arms[place]).source("delta"),
        kind=lambda arms: kind_of(arms[place], alpha),
    )


def _counted(alpha: float) -> tuple[Figure[Sequence[Arm]], ...]:
    def source(rule: str) -> Callable[[Sequence[Arm]], str]:
        return lambda arms: f"comparisons.json: arms[{_variant(arms)}]: {rule}"

    return (
        Figure("targets improved",
            lambda arms: (sum(improves(arm, alpha) for arm in arms), len(arms)), formats.share_of,
            source("count of target_result.p_adjusted < alpha with delta > 0")),
        Figure("non-targets, worst", lambda arms: min(a.non_target_result.delta for a in arms),
            formats.pp, source("least non_target_result.delta")),
        Figure("held", lambda arms: (sum(map(holds, arms)), len(arms)), formats.share_of,
            source("count of non_target_result.non_inferiority.holds"), numeric=False),
    )  # fmt: skip


def _marked(arms: Sequence[Arm], alpha: float) -> Facets:
    marks = dict.fromkeys(mark for arm in arms for mark in marks_of(arm, alpha))
    return {"variant": (_variant(arms),), "mark": tuple(marks)}


def _base_row(result: RunResult) -> Row:
    """Return base's scores, which are not changes."""
    own = {row.domain: row for row in result.base if row.role == "target"}
    others = [row for row in result.base if row.role == "non-target"]
    pooled = sum(row.score * row.n for row in others) / sum(row.n for row in others)
    scores = (
        Cell(
            own[target].score,
            formats.percent,
            f"comparisons.json: base[{own[target].task}].score",
        )
        for target in targets_of(result)
    )
    source = "comparisons.json: base, non-targets, score weighted by n"
    rest = (Cell(), Cell(pooled, formats.percent, source), Cell())
    return Row((Cell("base (score)"), *scores, *rest), apart=True)

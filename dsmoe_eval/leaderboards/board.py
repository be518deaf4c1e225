"""What a leaderboard shows, suite by suite: tables, plots and sentences, each figure traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..reports import formats
from ..reports.page import Forest, Interval, Plane, Point
from ..reports.table import Table
from ..variants import get_variant
from .board_tables import MEAN, arms_table, ranking_table, row_facets, source_of
from .entries import SubmittedRun
from .ranking import Estimate, LeaderboardRow, rank


@dataclass(frozen=True, slots=True)
class Board:
    """One suite.

    Attributes:
        suite: its name.
        rows: its rows, best first.
        findings: what is to be seen in ten seconds.
        table: the ranking.
        arms: every variant on every target.
        forest: gains over placebo, or over base where there is none.
        plane: gain against loss.
        glossary: variant and what it is.
    """

    suite: str
    rows: tuple[LeaderboardRow, ...]
    findings: tuple[str, ...]
    table: Table
    arms: Table
    forest: Forest
    plane: Plane
    glossary: tuple[tuple[str, str], ...]


def boards(submitted_runs: Sequence[SubmittedRun]) -> list[Board]:
    """Build one board per suite, sorted by name."""
    suites = sorted({one.folder.parts[0] for one in submitted_runs})
    return [
        _board(suite, [o for o in submitted_runs if o.folder.parts[0] == suite]) for suite in suites
    ]


def _board(suite: str, submitted_runs: Sequence[SubmittedRun]) -> Board:
    rows = rank(submitted_runs)
    names = list(dict.fromkeys(row.variant for row in rows))
    margin = max((one.header.margin for one in submitted_runs), default=0.0)
    return Board(
        suite=suite,
        rows=tuple(rows),
        findings=tuple(_findings(rows)),
        table=ranking_table(suite, rows),
        arms=arms_table(suite, rows),
        forest=_forest(suite, rows),
        plane=_plane(suite, rows, margin),
        glossary=tuple((name, get_variant(name).summary) for name in names),
    )


def _findings(rows: Sequence[LeaderboardRow]) -> Iterator[str]:
    ranked = [row for row in rows if row.rank is not None]
    for row in ranked[:3]:
        found, non = row.over_placebo, row.non_target
        lacks = [mark.name for mark in row.marks if not mark.earned]
        yield (
            f"{row.model}, {row.variant}: {_words(found)} over its placebo (rank "
            f"{row.rank}), {_words(row.gain)} over base; non-targets {_words(non)}, non-inferior. "
            + (f"Marks not earned: {', '.join(lacks)}." if lacks else "All marks earned.")
        )
    if not ranked:
        yield "Nothing is ranked: no variant has a placebo and non-inferior non-targets."
    unranked = [row for row in rows if row.unranked not in ("", "base", "a control")]
    for reason in dict.fromkeys(row.unranked for row in unranked):
        names = [f"{r.variant} ({r.model})" for r in unranked if r.unranked == reason]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield f"Not ranked, {reason}: {shown}."


def _words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return formats.pp_with_interval(estimate.value, estimate.low, estimate.high)


def _forest(suite: str, rows: Sequence[LeaderboardRow]) -> Forest:
    shown = []
    for row in rows:
        estimate = row.over_placebo or row.gain
        if estimate is None:
            continue
        what = "over placebo" if row.over_placebo else "over base: it has no placebo"
        shown.append(
            Interval(
                label=f"{row.variant}" + ("" if row.over_placebo else " (over base)"),
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=sum(found.n for found in row.by_domain.values()),
                trace=f"{source_of(row, 'arms[*]')}; {MEAN.format('gains ' + what)}",
                group=row.model,
                kind="" if row.rank is None else "good" if estimate.low > 0 else "mark",
                facets=row_facets(row),
            )
        )
    shown.sort(key=lambda row: row.group)
    return Forest(
        id=f"forest-{suite}",
        title="Gain by variant",
        caption="Filled: ranked, over its placebo. Hollow: not ranked.",
        axis="mean gain on the targets, percentage points, 95 % interval",
        rows=tuple(shown),
    )


def _plane(suite: str, rows: Sequence[LeaderboardRow], margin: float) -> Plane:
    points = [
        Point(
            label=f"{row.model}, {row.variant}",
            x=row.non_target.value,
            y=row.gain.value,
            x_low=row.non_target.low,
            x_high=row.non_target.high,
            y_low=row.gain.low,
            y_high=row.gain.high,
            trace=source_of(row, "arms[*]"),
            group=row.variant,
            dim=not row.trusted,
            facets=row_facets(row),
        )
        for row in rows
        if row.gain is not None and row.non_target is not None
    ]
    return Plane(
        id=f"plane-{suite}",
        title="Gain against loss",
        caption="Up: better on its targets than base. Left: worse on all else.",
        x_axis="change of non-targets, percentage points",
        y_axis="change of targets, percentage points",
        points=tuple(points),
        margin=margin or None,
    )

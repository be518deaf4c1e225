"""What a leaderboard shows, suite by suite: tables, plots and sentences, each figure traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..reports.page import Cell, Column, DataTable, Forest, Interval, Plane, Point, Row
from ..results.paired import Paired
from ..variants import BASE, get_variant
from .entries import Filing
from .ranking import Estimate, Standing, base_of, rank

TRUST = {
    "probes passed": "strength zero changes nothing, the profile moves outputs, sham equals base",
    "placebo flat": "the arm's random experts neither improve nor harm any target",
    "no leakage": "no test item is an identification or tuning item",
    "adequate power": "every target could have shown an effect of 10 points or less",
    "several seeds": "the variant was run and filed with more than one seed",
    "complete suite": "every target and task of the suite, every item",
}
"""The marks of trust, and what earns them."""
_MEAN = "mean over targets of {}; interval by MOVER"


@dataclass(frozen=True, slots=True)
class Board:
    """One suite.

    Attributes:
        suite: its name.
        standings: its rows, best first.
        findings: what is to be seen in ten seconds.
        table: the ranking.
        arms: every variant on every target.
        forest: gains over placebo, or over base where there is none.
        plane: gain against loss.
        glossary: variant and what it is.
    """

    suite: str
    standings: tuple[Standing, ...]
    findings: tuple[str, ...]
    table: DataTable
    arms: DataTable
    forest: Forest
    plane: Plane
    glossary: tuple[tuple[str, str], ...]


def boards(filings: Sequence[Filing]) -> list[Board]:
    """A board a suite, by name."""
    suites = sorted({one.folder.parts[0] for one in filings})
    return [_board(suite, [o for o in filings if o.folder.parts[0] == suite]) for suite in suites]


def _board(suite: str, filings: Sequence[Filing]) -> Board:
    rows = rank(filings)
    names = list(dict.fromkeys(row.variant for row in rows))
    margin = max((one.header.margin for one in filings), default=0.0)
    return Board(
        suite=suite,
        standings=tuple(rows),
        findings=tuple(_findings(rows)),
        table=_ranking(suite, rows),
        arms=_arms(suite, rows),
        forest=_forest(suite, rows),
        plane=_plane(suite, rows, margin),
        glossary=tuple((name, get_variant(name).summary) for name in names),
    )


def targets_of(rows: Sequence[Standing]) -> list[str]:
    """Targets, in the order of the suite."""
    return list(dict.fromkeys(t for row in rows for t in row.filing.header.targets))


def _findings(rows: Sequence[Standing]) -> Iterator[str]:
    ranked = [row for row in rows if row.rank is not None]
    for row in ranked[:3]:
        found, non = row.over_placebo, row.non_target
        lacks = [mark.name for mark in row.marks if not mark.earned]
        yield (
            f"{row.model}, {row.variant}: {_words(found)} over its placebo (rank "
            f"{row.rank}), {_words(row.gain)} over base; non-targets {_words(non)}, which hold. "
            + (f"Marks not earned: {', '.join(lacks)}." if lacks else "All marks earned.")
        )
    if not ranked:
        yield "Nothing is ranked: no variant has a placebo and non-targets that are shown to hold."
    unranked = [row for row in rows if row.unranked not in ("", "base", "a control")]
    for reason in dict.fromkeys(row.unranked for row in unranked):
        names = [f"{r.variant} ({r.model})" for r in unranked if r.unranked == reason]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield f"Not ranked, {reason}: {shown}."


def _words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:+.1f} pp [{low:+.1f}, {high:+.1f}]"


def _facets(row: Standing, domain: str | None = None) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {
        "model": (row.model,),
        "variant": (row.variant,),
        "mark": tuple(mark.name for mark in row.marks if mark.earned),
    }
    return found if domain is None else found | {"domain": (domain,)}


def _place(row: Standing, *path: str) -> str:
    return f"{row.filing.folder}/{row.variant}.json: run {row.filing.run_id}, {'.'.join(path)}"


def _estimate_cell(row: Standing, estimate: Estimate | None, what: str, figure: str) -> Cell:
    if estimate is None:
        return Cell("-")
    trace = f"{_place(row, f'arms[*].{figure}.delta')}; {_MEAN.format(what)}"
    kind = "good" if estimate.low > 0 else "bad" if estimate.high < 0 else ""
    return Cell(_words(estimate), estimate.value, trace, kind)


def _ranking(suite: str, rows: Sequence[Standing]) -> DataTable:
    targets = targets_of(rows)
    columns = (
        Column("rank", numeric=True, help="1 plus the rows that are better beyond noise"),
        Column("model"),
        Column("variant"),
        Column("over placebo", numeric=True, help="mean gain over its own random experts"),
        *(Column(target, numeric=True, help=f"gain over base on {target}") for target in targets),
        Column("over base", numeric=True, help="mean gain over base on the targets"),
        Column("non-targets", numeric=True, help="mean change of all else, pooled by arm"),
        Column("hold", help="the pooled non-targets are non-inferior for every target"),
        Column("marks", numeric=True, help="; ".join(f"{k}: {v}" for k, v in TRUST.items())),
        Column("not ranked for"),
    )
    table = tuple(_ranking_row(row, targets) for row in rows)
    caption = (
        "Change in percentage points with 95 % intervals. Rows within noise share a rank; base's "
        "row has its scores. Greyed: not every mark of trust was earned. Click a figure to see "
        "where it is from."
    )
    return DataTable(f"ranking-{suite}", caption, columns, table)


def _ranking_row(row: Standing, targets: Sequence[str]) -> Row:
    model = Cell(row.model, trace=f"{row.filing.folder}: {_run_words(row.filing)}")
    place = Cell("-" if row.rank is None else str(row.rank), row.rank)
    if row.variant == BASE:
        scores = [_base_cell(row, target) for target in targets]
        blank = (Cell(""),) * 4
        return Row(
            (place, model, Cell(BASE), Cell(""), *scores, *blank, Cell("base")), _facets(row)
        )
    earned = sum(mark.earned for mark in row.marks)
    words = "; ".join(f"{m.name}: {'yes' if m.earned else 'NO'} ({m.words})" for m in row.marks)
    cells = (
        place,
        model,
        Cell(row.variant),
        _estimate_cell(row, row.over_placebo, "gains over placebo", "generalization.over_placebo"),
        *(_gain_cell(row, target) for target in targets),
        _estimate_cell(row, row.gain, "gains over base", "target_result"),
        _estimate_cell(row, row.non_target, "pooled changes", "non_target_result"),
        Cell("yes" if row.holds else "no", kind="" if row.holds else "bad"),
        Cell(f"{earned} of {len(row.marks)}", earned, f"{_place(row, 'marks')}: {words}", "mark"),
        Cell(row.unranked),
    )
    return Row(cells, _facets(row), dim=not row.trusted)


def _run_words(filing: Filing) -> str:
    header, one = filing.header, next(iter(filing.results.values()))
    return (
        f"run {filing.run_id} of plan {header.plan}, seed {header.seed}, {header.run.engine} on "
        f"{header.run.device}; filed {one.filed.date} by {one.filed.by} ({one.filed.on})"
    )


def _base_cell(row: Standing, target: str) -> Cell:
    if target not in row.filing.header.targets:
        return Cell("-")
    base = base_of(row.filing, target)
    ends = "" if base.ci95 is None else f" [{100 * base.ci95[0]:.1f}, {100 * base.ci95[1]:.1f}]"
    trace = f"{_place(row, f'base[{base.task}].score')}; n = {base.n}; Wilson's interval"
    return Cell(f"{100 * base.score:.1f} %{ends}", None, trace)


def _gain_cell(row: Standing, target: str) -> Cell:
    found = row.by_domain.get(target)
    if found is None:
        return Cell("-")
    return _paired_cell(found, _place(row, f"arms[{target}]", "target_result"))


def _paired_cell(found: Paired, place: str) -> Cell:
    verdict = found.claim.verdict if found.claim is not None else ""
    sign = {"improves": " ▲", "harms": " ▼"}.get(verdict, "")
    kind = {"improves": "good", "harms": "bad"}.get(verdict, "")
    p_value = found.p_value if found.p_adjusted is None else found.p_adjusted
    low, high = (f"{100 * end:+.1f}" for end in found.ci95)
    trace = f"{place}.delta; {found.test}, n = {found.n}, [{low}, {high}], adjusted p {p_value:.3g}"
    return Cell(f"{100 * found.delta:+.1f}{sign}", found.delta, trace, kind)


def _arms(suite: str, rows: Sequence[Standing]) -> DataTable:
    columns = (
        Column("model"),
        Column("variant"),
        Column("target"),
        Column("n", numeric=True),
        Column("base", numeric=True),
        Column("gain", numeric=True, help="over base on the target"),
        Column("over placebo", numeric=True),
        Column("over wrong domain", numeric=True),
        Column("smallest effect", numeric=True, help="that could have been seen, 80 % power"),
        Column("non-targets", numeric=True),
        Column("worst domain", numeric=True),
        Column("claim", help="of the target, Holm over all arms of the run"),
    )
    table = tuple(
        _arm_row(row, target) for row in rows for target in row.by_domain
    )  # base has none
    return DataTable(f"arms-{suite}", "Every variant on every target.", columns, table)


def _arm_row(row: Standing, target: str) -> Row:
    arm = row.filing.arms[row.variant, target]
    own, found = arm.target_result, arm.generalization
    at, change = f"arms[{target}]", arm.generalization.non_target_change
    placebo, wrong = (
        Cell("no control")
        if one is None
        else _paired_cell(one, _place(row, at, "generalization", name))
        for name, one in (("over_placebo", found.over_placebo), ("specificity", found.specificity))
    )
    smallest = Cell("none") if own.mde80 is None else Cell(f"{100 * own.mde80:.1f}", own.mde80)
    cells = (
        Cell(row.model),
        Cell(row.variant),
        Cell(target),
        Cell(str(own.n), own.n),
        Cell(f"{100 * own.score_a:.1f} %", own.score_a, _place(row, at, "target_result.score_a")),
        _paired_cell(own, _place(row, at, "target_result")),
        placebo,
        wrong,
        smallest,
        _paired_cell(arm.non_target_result, _place(row, at, "non_target_result")),
        Cell(
            f"{100 * change.worst:+.1f} ({change.worst_domain})",
            change.worst,
            _place(row, at, "generalization.non_target_change.worst"),
        ),
        Cell("null" if own.claim is None else own.claim.verdict),
    )
    return Row(cells, _facets(row, target), dim=not row.trusted)


def _forest(suite: str, rows: Sequence[Standing]) -> Forest:
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
                trace=f"{_place(row, 'arms[*]')}; {_MEAN.format('gains ' + what)}",
                group=row.model,
                kind="" if row.rank is None else "good" if estimate.low > 0 else "mark",
                facets=_facets(row),
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


def _plane(suite: str, rows: Sequence[Standing], margin: float) -> Plane:
    points = [
        Point(
            label=f"{row.model}, {row.variant}",
            x=row.non_target.value,
            y=row.gain.value,
            x_low=row.non_target.low,
            x_high=row.non_target.high,
            y_low=row.gain.low,
            y_high=row.gain.high,
            trace=_place(row, "arms[*]"),
            group=row.variant,
            dim=not row.trusted,
            facets=_facets(row),
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

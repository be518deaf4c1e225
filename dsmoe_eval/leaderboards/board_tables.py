"""The tables of a leaderboard: the ranking, and every variant on every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..cards import OUTCOMES, Continuous
from ..reports import formats
from ..reports.table import (
    Cell,
    Facets,
    Figure,
    Row,
    Subject,
    Table,
    Value,
    make_table,
    otherwise,
    words,
)
from ..results.arms import Arm
from ..results.outcomes import OutcomeDifference
from ..results.paired import Paired
from ..variants import BASE
from .entries import SubmittedRun
from .ranking import Estimate, LeaderboardRow, base_of

TRUST = {
    "probes passed": "strength zero changes nothing, the profile moves outputs, sham equals base",
    "placebo flat": "the arm's random experts neither improve nor harm any target",
    "no leakage": "no test item is an identification or tuning item",
    "adequate power": "every target could have shown an effect of 10 points or less",
    "several seeds": "the variant was run and submitted with more than one seed",
    "complete suite": "every target and task of the suite, every item",
}
"""The marks of trust, and what earns them."""
MEAN = "mean over targets of {}; interval by MOVER"
"""How a mean over targets was computed, of what."""


def row_targets(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Return the targets, in the order of the suite."""
    return list(dict.fromkeys(t for row in rows for t in row.submitted.header.targets))


def row_facets(row: LeaderboardRow, domain: str | None = None) -> Facets:
    """Return what a row is filtered by."""
    found: Facets = {
        "model": (row.model,),
        "variant": (row.variant,),
        "mark": tuple(mark.name for mark in row.marks if mark.earned),
    }
    return found if domain is None else found | {"domain": (domain,)}


def source_of(row: LeaderboardRow, *path: str) -> str:
    """Return the entry and the path in it that a figure comes from."""
    return (
        f"{row.submitted.folder}/{row.variant}.json: run {row.submitted.run_id}, {'.'.join(path)}"
    )


def _estimate(
    name: str,
    estimate: Callable[[LeaderboardRow], Estimate | None],
    what: str,
    figure: str,
    help: str,  # noqa: A002 - as the column's
) -> Figure[LeaderboardRow]:
    """Return a column of a mean over targets."""

    def value(row: LeaderboardRow) -> Value | None:
        mean = estimate(row)
        return None if mean is None else (mean.value, mean.low, mean.high)

    def kind(row: LeaderboardRow) -> str:
        mean = estimate(row)
        if mean is None:
            return ""
        return "good" if mean.low > 0 else "bad" if mean.high < 0 else ""

    def source(row: LeaderboardRow) -> str:
        return f"{source_of(row, f'arms[*].{figure}.delta')}; {MEAN.format(what)}"

    show = formats.pp_with_interval
    return Figure(name, value, show, source, blank="-", kind=kind, help=help)


def ranking_table(suite: str, rows: Sequence[LeaderboardRow]) -> Table:
    """Return one row per variant of each model, best first, and base's scores."""
    caption = (
        "Change in percentage points with 95 % intervals. Rows within noise share a rank; base's "
        "row has its scores. Greyed: not every mark of trust was earned. Click a figure to see "
        "where it is from."
    )
    targets = row_targets(rows)
    figures = (*_NAMES, *map(_gain, targets), *_SUMMARY)
    others = [row for row in rows if row.variant != BASE]
    table = make_table(
        f"ranking-{suite}", caption, figures, others, row_facets, lambda row: not row.trusted
    )
    base = (
        made(row, targets)
        for row in rows
        if row.variant == BASE
        for made in (_base_row, _floor_row)
    )
    return replace(table, rows=(*table.rows, *base))


def _model_source(row: LeaderboardRow) -> str:
    return f"{row.submitted.folder}: {_run_words(row.submitted)}"


_NAMES: tuple[Figure[LeaderboardRow], ...] = (
    Figure("rank", lambda row: row.rank, blank="-",
        help="1 plus the rows that are better beyond noise"),
    words("model", lambda row: row.model, _model_source),
    words("variant", lambda row: row.variant),
    _estimate("over placebo", lambda row: row.over_placebo, "gains over placebo",
        "generalization.over_placebo", "mean gain over its own random experts"),
)  # fmt: skip
_SUMMARY: tuple[Figure[LeaderboardRow], ...] = (
    _estimate("over base", lambda row: row.gain, "gains over base", "target_result",
        "mean gain over base on the targets"),
    _estimate("non-targets", lambda row: row.non_target, "pooled changes", "non_target_result",
        "mean change of all else, pooled by arm"),
    Figure("non-inferior", lambda row: "yes" if row.non_inferior else "no", numeric=False,
        kind=lambda row: "" if row.non_inferior else "bad",
        help="the pooled non-targets are non-inferior for every target"),
    Figure("marks", lambda row: (sum(mark.earned for mark in row.marks), len(row.marks)),
        formats.share_of, lambda row: f"{source_of(row, 'marks')}: {_mark_words(row)}",
        kind=lambda _: "mark",
        help="; ".join(f"{name}: {meaning}" for name, meaning in TRUST.items())),
    words("learned from", lambda row: row.learned_from),
    words("not ranked for", lambda row: row.unranked),
)  # fmt: skip


def _mark_words(row: LeaderboardRow) -> str:
    return "; ".join(f"{m.name}: {'yes' if m.earned else 'NO'} ({m.words})" for m in row.marks)


def _run_words(submitted: SubmittedRun) -> str:
    header, one = submitted.header, next(iter(submitted.results.values()))
    return (
        f"run {submitted.run_id} of plan {header.plan}, seed {header.seed}, {header.run.engine} on "
        f"{header.run.device}; submitted {one.submission.date} by "
        f"{one.submission.by} ({one.submission.hardware})"
    )


def _base_row(row: LeaderboardRow, targets: Sequence[str]) -> Row:
    """Return base's scores, which are no changes."""
    return _row_apart(row, BASE, [_base_cell(row, target) for target in targets])


def _floor_row(row: LeaderboardRow, targets: Sequence[str]) -> Row:
    """Return what guessing, or one answer to all items, would get where base has its scores."""
    return _row_apart(row, "chance; one answer", [_floor_cell(row, target) for target in targets])


def _row_apart(row: LeaderboardRow, name: str, scores: Sequence[Cell]) -> Row:
    model = Cell(row.model, source=_model_source(row))
    blank = (Cell(),) * 5
    cells = (Cell("-"), model, Cell(name), Cell(), *scores, *blank, Cell(BASE))
    return Row(cells, row_facets(row), apart=True)


def _base_cell(row: LeaderboardRow, target: str) -> Cell:
    if target not in row.submitted.header.targets:
        return Cell("-")
    base = base_of(row.submitted, target)
    source = f"{source_of(row, f'base[{base.task}].score')}; n = {base.n}; Wilson's interval"
    return Cell((base.score, *(base.ci95 or ())), formats.score, source)


def _floor_cell(row: LeaderboardRow, target: str) -> Cell:
    if target not in row.submitted.header.targets:
        return Cell("-")
    base = base_of(row.submitted, target)
    source = source_of(row, f"base[{base.task}].chance") + "; then .constant"
    floors = tuple("-" if one is None else one for one in (base.chance, base.constant))
    return Cell(floors, formats.floors, source)


def _paired(
    name: str,
    compared: Callable[[Subject], tuple[Paired | None, str]],
    blank: str = "-",
    help: str = "",  # noqa: A002 - as the column's
) -> Figure[Subject]:
    """Return a column of a comparison, given with its path; where there is none, `blank`."""

    def value(subject: Subject) -> Value | None:
        figures, _ = compared(subject)
        return None if figures is None else (figures.delta, _SIGNS.get(_verdict(figures), ""))

    def source(subject: Subject) -> str:
        figures, place = compared(subject)
        return "" if figures is None else f"{place}.delta; {_test_words(figures)}"

    def kind(subject: Subject) -> str:
        figures, _ = compared(subject)
        return "" if figures is None else _KINDS.get(_verdict(figures), "")

    return Figure(name, value, formats.points, source, blank=blank, kind=kind, help=help)


_SIGNS = {"improves": "▲", "harms": "▼"}
_KINDS = {"improves": "good", "harms": "bad"}


def _verdict(figures: Paired) -> str:
    return "" if figures.claim is None else figures.claim.verdict


def _test_words(figures: Paired) -> str:
    p_value = figures.p_value if figures.p_adjusted is None else figures.p_adjusted
    low, high = (formats.points(end) for end in figures.ci95)
    return f"{figures.test}, n = {figures.n}, [{low}, {high}], adjusted p {p_value:.3g}"


def _gain(target: str) -> Figure[LeaderboardRow]:
    return _paired(
        target,
        lambda row: (
            row.by_domain.get(target),
            source_of(row, f"arms[{target}]", "target_result"),
        ),
        help=f"gain over base on {target}",
    )


@dataclass(frozen=True, slots=True)
class _OnTarget:
    """A variant on one target."""

    row: LeaderboardRow
    arm: Arm

    def source(self, *path: str) -> str:
        return source_of(self.row, f"arms[{self.arm.target}]", *path)


def arms_table(suite: str, rows: Sequence[LeaderboardRow]) -> Table:
    """Return one row per variant and target."""
    shown = [
        _OnTarget(row, row.submitted.arms[row.variant, target])
        for row in rows
        for target in row.by_domain  # base has none
    ]
    outcomes = dict.fromkeys(own.outcome for one in shown for own in one.arm.outcomes)
    shares = (_SHARE,) if any(one.arm.share_of_best is not None for one in shown) else ()
    return make_table(
        f"arms-{suite}",
        "Every variant on every target. A gain by another outcome is in its unit, for the better.",
        (*_ARM, *shares, *map(_outcome, outcomes)),
        shown,
        lambda one: row_facets(one.row, one.arm.target),
        lambda one: not one.row.trusted,
    )


def _share(one: _OnTarget) -> Value | None:
    own = one.arm.share_of_best
    if own is None or own.share is None:
        return None
    return (own.share, *(own.ci95 or ("no interval",)))


_SHARE: Figure[_OnTarget] = Figure(
    "share of best",
    _share,
    formats.share_with_interval,
    lambda one: one.source("share_of_best.share"),
    blank="-",
    help="gain as a share of the best profile's that was found in the run; Fieller's interval",
)


def _outcome(name: Continuous) -> Figure[_OnTarget]:
    """Return a column of the gain on the target by an outcome other than the score."""

    def target(one: _OnTarget) -> OutcomeDifference | None:
        result = one.arm.outcome(name)
        return None if result is None else result.target

    def value(one: _OnTarget) -> Value | None:
        own = target(one)
        return None if own is None else (own.gain, _SIGNS.get(_outcome_verdict(own), ""))

    def source(one: _OnTarget) -> str:
        own = target(one)
        words = "" if own is None else f"; {own.test}, n = {own.n}"
        return one.source(f"outcomes[{name}]", "target.gain") + words

    return Figure(
        name, value, formats.thousandths, source, blank="-",
        kind=lambda one: _KINDS.get(_outcome_verdict(target(one)), ""),
        help=f"{OUTCOMES[name].title}: gain on the target, {OUTCOMES[name].unit}",
    )  # fmt: skip


def _outcome_verdict(own: OutcomeDifference | None) -> str:
    return "" if own is None or own.claim is None else own.claim.verdict


def _worst(one: _OnTarget) -> Value:
    change = one.arm.generalization.non_target_change
    return change.worst, change.worst_domain


_ARM: tuple[Figure[_OnTarget], ...] = (
    words("model", lambda one: one.row.model),
    words("variant", lambda one: one.row.variant),
    words("target", lambda one: one.arm.target),
    Figure("n", lambda one: one.arm.target_result.n),
    Figure("base", lambda one: one.arm.target_result.score_a, formats.score,
        lambda one: one.source("target_result.score_a")),
    _paired("gain", lambda one: (one.arm.target_result, one.source("target_result")),
        help="over base on the target"),
    _paired("over placebo", lambda one: (one.arm.generalization.over_placebo,
        one.source("generalization", "over_placebo")), "no control"),
    _paired("over wrong domain", lambda one: (one.arm.generalization.specificity,
        one.source("generalization", "specificity")), "no control"),
    Figure("smallest effect", lambda one: otherwise(one.arm.target_result.mde80, "none"),
        formats.size, help="that could have been seen, 80 % power"),
    _paired("non-targets",
        lambda one: (one.arm.non_target_result, one.source("non_target_result"))),
    Figure("worst domain", _worst, formats.points_of,
        lambda one: one.source("generalization.non_target_change.worst")),
    Figure("claim", lambda one: _verdict(one.arm.target_result) or "null", numeric=False,
        help="of the target, Holm over all arms of the run"),
)  # fmt: skip

"""What a run's report says of outcomes other than the score: sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..results.arms import Arm
from ..results.outcomes import OutcomeDifference, OutcomeResult, TaskDifference
from ..results.schema import RunResult
from ..stats import Unit
from . import formats
from .page import Forest, Interval
from .run_arms import arm_source, shown_arms, sign_of_change, targets_of, variants_of
from .table import Facets, Figure, Table, Value, make_table, otherwise, words

_LESS = "Less is better; a gain is a fall. "
FEWEST_DOCUMENTS = 8
"""Of a run with a limit, comparisons of fewer documents claim nothing: it is a smoke test, and what
a t test says of two documents is an accident of how alike these are."""
_FEW = "too few items"


@dataclass(frozen=True, slots=True)
class OutcomeSection:
    """The part of a report about one outcome.

    Attributes:
        name: the outcome's name.
        primary: whether it is the primary outcome.
        title: the heading.
        notes: what the reader should know of it.
        table: one row per arm.
        tasks: one row per arm and task.
        forests: the plots of targets and of non-targets, where there are any.
    """

    name: str
    primary: bool
    title: str
    notes: tuple[str, ...]
    table: Table
    tasks: Table
    forests: tuple[Forest, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    arm: Arm
    result: OutcomeResult

    def source(self, place: str) -> str:
        return arm_source(self.arm, f"outcomes[{self.result.outcome}].{place}")


def outcome_sections(result: RunResult) -> list[OutcomeSection]:
    """Return the section of each outcome of the run but the score, the primary one first."""
    names = dict.fromkeys(one.outcome for arm in result.arms for one in arm.outcomes)
    sections = [_section(result, name) for name in names]
    return sorted(sections, key=lambda one: not one.primary)


def primary_words(result: RunResult) -> str:
    """Return which outcome is the primary one, and which are secondary."""
    names = ["score", *dict.fromkeys(one.outcome for arm in result.arms for one in arm.outcomes)]
    rest = [name for name in names if name != result.outcome]
    words = f"Primary outcome, fixed in the plan: {result.outcome}"
    return f"{words}; secondary: {', '.join(rest)}." if rest else f"{words}."


def _section(result: RunResult, name: str) -> OutcomeSection:
    rows = [_Row(arm, own) for arm in shown_arms(result) if (own := arm.outcome(name)) is not None]
    about = rows[0].result.about
    title = f"{about.title.capitalize()} ({name}), {about.unit}"
    return OutcomeSection(
        name=name,
        primary=name == result.outcome,
        title=title,
        notes=tuple(_notes(rows)),
        table=_arms_table(result, name, rows),
        tasks=_tasks_table(name, rows),
        forests=tuple(_forests(result, name, rows)),
    )


def _notes(rows: list[_Row]) -> Iterator[str]:
    without = dict.fromkeys(task for row in rows for task in row.result.without)
    if without:
        yield f"Without this outcome, since nothing there has options: {', '.join(without)}."
    lacking = dict.fromkeys(row.arm.target for row in rows if row.result.target is None)
    if lacking:
        yield f"No task of this outcome for the targets {', '.join(lacking)}."


def _facets(arm: Arm) -> Facets:
    return {"variant": (arm.variant,), "domain": (arm.target,)}


def _caption(result: RunResult, own: OutcomeResult) -> str:
    about = own.about
    less = "" if about.higher_is_better else _LESS
    few = (
        f" {_FEW}: under {FEWEST_DOCUMENTS} documents, under a limit." if result.smoke_test else ""
    )
    return (
        f"{about.title.capitalize()}, in {about.unit}. {less}▲ ▼: a gain or loss with "
        f"Holm-adjusted p < {result.significance_level}, in families as those of the score. "
        f"Non-inferior: pooled non-targets, at {own.margin:g}. Beyond placebo: the gain less "
        f"that of the placebo's draws.{few}"
    )


def _of(
    place: str,
    title: str,
    value: Callable[[OutcomeDifference], Value | None],
    show: Callable[..., str] = str,
    path: str = "",
) -> Figure[_Row]:
    def read(row: _Row) -> Value | None:
        own: OutcomeDifference | None = getattr(row.result, place)
        return None if own is None else value(own)

    return Figure(title, read, show, lambda row: row.source(f"{place}.{path or title}"), blank="-")


def _arms_table(result: RunResult, name: str, rows: list[_Row]) -> Table:
    figures: tuple[Figure[_Row], ...] = (
        words("variant", lambda row: row.arm.variant),
        words("target", lambda row: row.arm.target),
        _of("target", "n", lambda own: own.n),
        _of("target", "base", lambda own: own.level_a, _level, "level_a"),
        _of("target", "variant's", lambda own: own.level_b, _level, "level_b"),
        _of("target", "gain", lambda own: (own.gain, _sign(own, result)), _signed),
        _of("target", "95 % interval", _interval_or_none, _ends, "ci95"),
        _of("target", "p", lambda own: own.p_value, formats.p_value, "p_value"),
        _of("target", "p (Holm)", lambda own: otherwise(own.p_adjusted, "no claim"),
           formats.p_value, "p_adjusted"),
        _of("target", "claim", lambda own: _claim(own, result)),
        _of("target", "smallest effect", lambda own: otherwise(own.mde80, "none"), _level, "mde80"),
        _of("non_targets", "non-target n", lambda own: own.n, str, "n"),
        _of("non_targets", "non-target gain", lambda own: own.gain, _signed, "gain"),
        _of("non_targets", "one-sided bound", _bound, _signed, "non_inferiority.lower_bound"),
        _of("non_targets", "non-inferior", lambda own: _non_inferior(own, result),
           str, "non_inferiority.p_value"),
        _of("over_placebo", "beyond placebo", lambda own: (own.gain, _sign(own, result)), _signed,
           "gain"),
        words("test", lambda row: "-" if row.result.target is None else row.result.target.test),
    )  # fmt: skip
    caption = _caption(result, rows[0].result)
    return make_table(f"outcome-{name}", caption, figures, rows, lambda row: _facets(row.arm))


def _bound(own: OutcomeDifference) -> Value:
    bound = own.non_inferiority
    return otherwise(None if bound is None else bound.lower_bound, "none")


def _interval_or_none(own: OutcomeDifference) -> Value:
    """Return the interval of a gain, or that there is none."""
    return "none" if own.ci95 is None else own.ci95


_level = "{:.3f}".format
_signed = formats.thousandths


def _ends(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"


def _is_few(own: OutcomeDifference, result: RunResult) -> bool:
    """Return whether a comparison of a limited run has too few documents for a claim."""
    return result.smoke_test and own.clusters < FEWEST_DOCUMENTS


def _sign(own: OutcomeDifference, result: RunResult) -> str:
    if _is_few(own, result):
        return ""
    return sign_of_change(own.p_adjusted, own.gain, result.significance_level)


def _claim(own: OutcomeDifference, result: RunResult) -> str:
    if own.claim is None:
        return "no claim"
    return _FEW if _is_few(own, result) else own.claim.verdict


def _non_inferior(own: OutcomeDifference, result: RunResult) -> str:
    if _is_few(own, result):
        return _FEW
    return "yes" if own.non_inferior else "not shown"


def _tasks_table(name: str, rows: list[_Row]) -> Table:
    pairs = [(row, task) for row in rows for task in row.result.tasks]

    def of(
        title: str, value: Callable[[TaskDifference], Value], show: Callable[..., str], path: str
    ) -> Figure[tuple[_Row, TaskDifference]]:
        return Figure(
            title, lambda pair: value(pair[1]), show,
            lambda pair: pair[0].source(f"tasks[{pair[1].task}].{path}; {pair[1].test}"),
        )  # fmt: skip

    figures: tuple[Figure[tuple[_Row, TaskDifference]], ...] = (
        words("variant", lambda pair: pair[0].arm.variant),
        words("target", lambda pair: pair[0].arm.target),
        words("task", lambda pair: pair[1].task),
        words("domain", lambda pair: pair[1].domain),
        of("n", lambda own: own.n, str, "n"),
        of("clusters", lambda own: own.clusters, str, "clusters"),
        of("base", lambda own: own.level_a, _level, "level_a"),
        of("variant's", lambda own: own.level_b, _level, "level_b"),
        of("gain", lambda own: own.gain, _signed, "gain"),
        of("95 % interval", _interval_or_none, _ends, "ci95"),
        of("p", lambda own: own.p_value, formats.p_value, "p_value"),
    )
    caption = "Every task of this outcome; these p-values are not adjusted."
    return make_table(
        f"outcome-{name}-tasks", caption, figures, pairs, lambda pair: _facets(pair[0].arm)
    )


def _forests(result: RunResult, name: str, rows: list[_Row]) -> Iterator[Forest]:
    own = rows[0].result
    unit = Unit(own.about.unit)
    ordered = [row for target in targets_of(result) for row in rows if row.arm.target == target]
    for place, title, group, margin in (
        ("target", f"Gain on the target by {name}, with 95 % intervals", "{}", None),
        ("non_targets", f"Gain elsewhere by {name}", "all else, steered for {}", own.margin),
    ):
        intervals = tuple(
            _interval(row, place, group, unit, result)
            for row in ordered
            if (found := getattr(row.result, place)) is not None and found.ci95 is not None
        )
        if intervals:
            filled = "non-inferior at the margin" if margin else "a gain after Holm's correction"
            yield Forest(
                f"forest-{name}-{place.replace('_', '-')}", title, f"A filled dot is {filled}.",
                f"gain, {unit.name}", intervals, margin, unit,
            )  # fmt: skip


def _interval(row: _Row, place: str, group: str, unit: Unit, result: RunResult) -> Interval:
    own: OutcomeDifference = getattr(row.result, place)
    low, high = own.ci95 or (own.gain, own.gain)
    kind = "good" if _sign(own, result) == "▲" and place == "target" else ""
    if place == "non_targets":
        kind = "mark" if _non_inferior(own, result) == "yes" else ""
    return Interval(
        row.arm.variant, own.gain, low, high, own.n, row.source(f"{place}.gain; {own.test}"),
        group.format(row.arm.target), kind, _facets(row.arm), unit,
    )  # fmt: skip


def outcome_findings(result: RunResult) -> dict[str, list[str]]:
    """Return for each outcome but the score one sentence per variant that claims something."""
    names = dict.fromkeys(one.outcome for arm in result.arms for one in arm.outcomes)
    return {
        name: [
            sentence
            for variant in variants_of(result)
            if (sentence := _finding(result, name, variant))
        ]
        for name in names
    }


def _finding(result: RunResult, name: str, variant: str) -> str:
    """Return the sentence of a variant; empty for controls, and where nothing is claimed."""
    found = [
        own
        for arm in shown_arms(result)
        if arm.variant == variant and arm.control_of is None
        and (own := arm.outcome(name)) is not None and own.target is not None
        and own.target.p_adjusted is not None
    ]  # fmt: skip
    if not found:
        return ""
    names = [arm.target for arm in shown_arms(result) if arm.outcome(name) in found]
    role = ["secondary", "primary"][name == result.outcome]
    signs = [_sign(own.target, result) for own in found if own.target is not None]
    up, down = (
        [target for target, sign in zip(names, signs, strict=True) if sign == mark] for mark in "▲▼"
    )
    gains = [own.target.gain for own in found if own.target is not None]
    said = f"improves {formats.named(up, len(found), 'targets')}" + (
        f" and harms {formats.named(down, len(found), 'targets')}" if down else ""
    )
    if all(own.target is not None and _is_few(own.target, result) for own in found):
        said = (
            f"can claim nothing, under a limit that leaves fewer than {FEWEST_DOCUMENTS} documents"
        )
    return (
        f"By {name} ({role}) {variant} {said}; gains: {formats.span(gains, _signed)} "
        f"{found[0].about.unit}{_elsewhere(found, result)}."
    )


def _elsewhere(found: list[OutcomeResult], result: RunResult) -> str:
    pools = [own.non_targets for own in found if own.non_targets is not None]
    if not pools:
        return ""
    held = sum(_non_inferior(own, result) == "yes" for own in pools)
    said = f"; elsewhere {formats.span([own.gain for own in pools], _signed)}"
    if all(_is_few(own, result) for own in pools):
        return said
    return (
        f"{said}, non-inferior at {found[0].margin:g} {found[0].about.unit} for {held} of "
        f"{len(pools)}"
    )

"""Would other text have chosen other experts, and what does the prompt's wording move?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..results.arms import Arm
from ..results.schema import RunResult
from ..results.stability import (
    ArmOverlap,
    ResampledGains,
    StabilityResult,
    TargetWordings,
    Wording,
)
from ..runs.overlaps import DomainStability
from ..steering import ChosenExpert
from . import formats
from .run_arms import arm_source, shown_arms
from .table import Facets, Figure, Table, Value, make_table, markdown, words

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Spread:
    """The gain of an arm on a target, and its spread.

    Attributes:
        arm: the arm, with its interval over items.
        gains: its gains with the experts of each resample.
        wordings: its scores and base's under each wording.
    """

    arm: Arm
    gains: ResampledGains
    wordings: TargetWordings


def spreads(result: RunResult, stability: StabilityResult) -> list[Spread]:
    """Return the spread of the gain of the arm that was measured again, target by target."""
    arms = {arm.target: arm for arm in result.arms if arm.variant == stability.arm}
    return [
        Spread(arms[gains.target], gains, wordings)
        for gains, wordings in zip(stability.gains, stability.wordings, strict=True)
    ]


def overlap_table(stability: StabilityResult) -> Table:
    """Return the overlap of the experts that resamples choose, one row per arm."""
    caption = (
        f"Documents were drawn again {stability.resamples} times, with replacement within each "
        "domain, and experts chosen from each draw. Overlap: shared experts over all that either "
        "choice has (Jaccard index). Between resamples: mean over their pairs; by chance: of blind "
        "choices with as many experts in each layer; with the full text: mean over the resamples."
    )
    return make_table("overlap", caption, _OVERLAP, stability.overlaps, _overlap_facets)


def _overlap_facets(row: ArmOverlap) -> Facets:
    return {"variant": (row.variant,), "domain": (row.target,)}


def _overlap(name: str, field: str) -> Figure[ArmOverlap]:
    return Figure(
        name,
        lambda row: getattr(row, field),
        formats.hundredths,
        lambda row: f"stability.json: overlaps[{row.variant}, {row.target}].{field}",
        blank=_NONE,
    )


_OVERLAP: tuple[Figure[ArmOverlap], ...] = (
    words("variant", lambda row: row.variant),
    words("target", lambda row: row.target),
    Figure("experts", lambda row: row.experts),
    Figure("resamples that name as many", lambda row: row.named),
    _overlap("between resamples", "between"),
    _overlap("by chance", "by_chance"),
    _overlap("with the full text's", "with_full"),
)


def spread_table(result: RunResult, stability: StabilityResult) -> Table:
    """Return the spread of the arm's gain over resamples and wordings, one row per target."""
    caption = (
        f"Gain of {stability.arm} over base on the target, percentage points: with the experts of "
        "the full text and its 95 % interval over items; over the resamples their mean, standard "
        "deviation and range; the range over wordings of the prompt. Wordings move base: its "
        "largest less its smallest score over the same wordings."
    )
    return make_table("spread", caption, _SPREAD, spreads(result, stability), _spread_facets)


def _spread_facets(row: Spread) -> Facets:
    return {"variant": (row.arm.variant,), "domain": (row.arm.target,)}


def _gain(row: Spread) -> Value:
    return row.arm.target_result.delta, *row.arm.target_result.ci95


def _of_gains(
    name: str, value: Callable[[ResampledGains], Value | None], show: Callable[..., str]
) -> Figure[Spread]:
    return Figure(
        name,
        lambda row: value(row.gains),
        show,
        lambda row: f"stability.json: gains[{row.arm.target}].gains",
        blank=_NONE,
    )


def _gains_by_wording(row: Spread) -> Value | None:
    gains = [one.gain for one in row.wordings.wordings]
    return (min(gains), max(gains)) if len(gains) > 1 else None


def _wordings_source(row: Spread) -> str:
    return f"stability.json: wordings[{row.arm.target}].wordings"


_SPREAD: tuple[Figure[Spread], ...] = (
    words("target", lambda row: row.arm.target),
    Figure("gain", _gain, formats.points_with_interval,
        lambda row: arm_source(row.arm, "target_result.delta")),
    _of_gains("mean of resamples", lambda gains: gains.mean, formats.points),
    _of_gains("standard deviation", lambda gains: gains.deviation, formats.size),
    _of_gains("range over resamples", lambda gains: gains.range, formats.points_interval),
    Figure("range over wordings", _gains_by_wording, formats.points_interval, _wordings_source,
        blank=_NONE),
    Figure("wordings move base", lambda row: row.wordings.base_range, formats.size,
        _wordings_source, blank=_NONE),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Row:
    """A wording on a target."""

    target: str
    wording: Wording


def wordings_table(stability: StabilityResult) -> Table:
    """Return base's score, the arm's and the gain under each wording of the prompt."""
    caption = (
        "Scores on the target's test items. The wording is a line before each question, of the "
        f"suite; none: the task's prompt as it is. Arm: {stability.arm}."
    )
    rows = [_Row(of.target, one) for of in stability.wordings for one in of.wordings]
    return make_table("wordings", caption, _WORDINGS, rows, lambda row: {"domain": (row.target,)})


def _of_wording(
    name: str, value: Callable[[Wording], float], show: Callable[..., str], cell: str
) -> Figure[_Row]:
    def source(row: _Row) -> str:
        return f"stability.json: wordings[{row.target}]; cell {getattr(row.wording, cell)}"

    return Figure(name, lambda row: value(row.wording), show, source)


_WORDINGS: tuple[Figure[_Row], ...] = (
    words("target", lambda row: row.target),
    words("wording", lambda row: row.wording.line or "(none)"),
    _of_wording("base", lambda one: one.base, formats.percent, "base_cell"),
    _of_wording("arm", lambda one: one.arm, formats.percent, "arm_cell"),
    _of_wording("gain", lambda one: one.gain, formats.pp, "arm_cell"),
)


def stability_findings(result: RunResult, stability: StabilityResult) -> list[str]:
    """Return what may be said of the spread, in sentences."""
    said = [_overlaps(stability)] if stability.overlaps else []
    said += [
        f"{name} steers by a vector and chooses no experts: its stability was not measured."
        for name in stability.without_experts
    ]
    return [
        *said,
        *_unnamed(stability),
        *_resampled(result, stability),
        *_below_wordings(result, stability),
    ]


def _overlaps(stability: StabilityResult) -> str:
    variants = dict.fromkeys(row.variant for row in stability.overlaps)
    each = [
        _overlap_words(name, [row for row in stability.overlaps if row.variant == name])
        for name in variants
    ]
    return (
        f"Would other text have chosen other experts? Any two of {stability.resamples} resamples "
        "of the documents choose experts that overlap by (mean of the pairs, over the targets; 1: "
        f"the same experts; in brackets: by chance): {'; '.join(each)}."
    )


def _overlap_words(variant: str, rows: Sequence[ArmOverlap]) -> str:
    between = [row.between for row in rows if row.between is not None]
    chance = [row.by_chance for row in rows if row.by_chance is not None]
    if not between:
        return f"{variant} unknown"
    by_text, by_chance = (formats.span(one, formats.hundredths) for one in (between, chance))
    return f"{variant} {by_text} ({by_chance})"


def _unnamed(stability: StabilityResult) -> Iterator[str]:
    for row in stability.overlaps:
        if row.named < stability.resamples:
            yield (
                f"{row.variant} on {row.target}: {stability.resamples - row.named} of "
                f"{stability.resamples} resamples cannot name {row.experts} experts, and are not "
                "in its overlap and gains."
            )


def _resampled(result: RunResult, stability: StabilityResult) -> Iterator[str]:
    """Yield the gains of the one arm with the experts of the resamples."""
    each = [
        f"{row.arm.target} {formats.points_interval(*row.gains.range)} pp (full text: "
        f"{formats.pp_with_interval(row.arm.target_result.delta, *row.arm.target_result.ci95)})"
        for row in spreads(result, stability)
        if row.gains.range is not None
    ]
    if each:
        yield f"Gain of {stability.arm} with the experts of each resample: {'; '.join(each)}."


def _below_wordings(result: RunResult, stability: StabilityResult) -> Iterator[str]:
    """Yield the gains that are smaller than what wordings move base on the same target."""
    for row in stability.wordings:
        moved = row.base_range
        below = [
            f"{arm.variant} ({formats.pp(arm.target_result.delta)})"
            for arm in shown_arms(result)
            if arm.target == row.target
            and moved is not None
            and arm.target_result.p_adjusted is not None
            and 0 < arm.target_result.delta < moved
        ]
        if below and moved is not None:
            gains = "the gain of" if len(below) == 1 else "each of the gains of"
            yield (
                f"On {row.target}, {gains} {', '.join(below)} is smaller than what the wording of "
                f"the prompt moves base, {formats.size_pp(moved)}."
            )


_CHOSEN: tuple[Figure[tuple[ChosenExpert, int]], ...] = (
    Figure("layer", lambda one: one[0].layer),
    Figure("expert", lambda one: one[0].expert),
    Figure("score", lambda one: one[0].score, formats.significant),
    Figure("resamples that choose it", lambda one: one[1]),
)


def domain_stability_page(found: DomainStability, domain: str, method: str) -> str:
    """Return the overlap of a domain's experts over resamples, and each expert, in Markdown."""
    overlap = found.overlap
    figures = {
        "between resamples": overlap.between,
        "by chance": overlap.by_chance,
        "with the full text's": overlap.with_full,
    }
    said = ", ".join(
        f"{name} {_NONE if value is None else formats.hundredths(value)}"
        for name, value in figures.items()
    )
    experts = "1 expert" if overlap.experts == 1 else f"{overlap.experts} experts"
    table = make_table("chosen", "", _CHOSEN, found.experts)
    read = "" if found.chunks is None else f" (at most {found.chunks} chunks of each)"
    return (
        f"{experts} of {domain} by {method}, from {found.documents} documents{read}; "
        f"{overlap.named} of {found.resamples} resamples name as many.\n"
        f"Overlap (Jaccard): {said}\n\n{markdown(table).rstrip()}"
    )

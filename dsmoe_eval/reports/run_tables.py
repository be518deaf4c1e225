"""Every comparison of a run with base: by arm, and by arm and domain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..results.arms import Arm
from ..results.paired import Paired
from ..results.schema import RunResult
from . import formats
from .run_arms import (
    ARM,
    Part,
    arm_source,
    domain_parts,
    facets_of,
    kind_of,
    non_inferior_words,
    non_inferiority_source,
    non_target_part,
    table_of_arms,
    target_part,
)
from .table import Facets, Figure, Table, Value, make_table, otherwise, words

PART: tuple[Figure[Part], ...] = (
    words("variant", lambda part: part.arm.variant),
    words("target", lambda part: part.arm.target),
)


def details(result: RunResult) -> Table:
    """Return one row per arm, with every figure."""
    caption = (
        "p: two-sided, against base on the same items, by the test named in the last column. "
        "Single right-or-wrong answers to items on their own: mid-p McNemar with Tango's score "
        "interval. Means of several answers, and items that share a question: "
        "Student's t with a standard error robust to clusters. Smallest effect: at 80 % "
        "power and the observed discordance or spread; one-sided bound: of the non-target change, "
        f"at level {result.significance_level / 2:g}."
    )
    level = result.significance_level
    figures = (
        *PART,
        *paired_figures(lambda part: kind_of(part.arm, level)),
        replace(_P_ADJUSTED, blank="no claim"),
        *_NON_TARGETS,
        words("test", _tests, lambda part: part.source("test")),
    )
    return make_table(
        "arms", caption, figures, map(target_part, result.arms), partial(_part_facets, level=level)
    )


def _part_facets(part: Part, level: float) -> Facets:
    return facets_of(part.arm, level)


def _tests(part: Part) -> str:
    own, other = part.figures.test, part.arm.non_target_result.test
    return own if own == other else f"{own}; {other}"


def _paired(
    name: str,
    value: Callable[[Paired], Value | None],
    place: str,
    show: Callable[..., str] = str,
    kind: Callable[[Part], str] | None = None,
) -> Figure[Part]:
    """Return a column for a figure of a comparison."""
    return Figure(
        name, lambda part: value(part.figures), show, lambda part: part.source(place), kind=kind
    )


def paired_figures(kind: Callable[[Part], str] | None = None) -> tuple[Figure[Part], ...]:
    """Return the columns of a comparison; `kind` gives the kind of its change."""
    return (
        _paired("n", lambda own: own.n, "n"),
        _paired("base score", lambda own: own.score_a, "score_a", formats.percent),
        _paired("variant score", lambda own: own.score_b, "score_b", formats.percent),
        _paired("change", lambda own: own.delta, "delta", formats.pp, kind),
        _paired("95 % interval", lambda own: own.ci95, "ci95", formats.points_interval),
        _paired("p", lambda own: own.p_value, "p_value", formats.p_value),
        _paired("gained", lambda own: own.gained, "gained"),
        _paired("lost", lambda own: own.lost, "lost"),
        _paired(
            "smallest effect", lambda own: otherwise(own.mde80, "none"), "mde80", formats.size_pp
        ),
    )


_P_ADJUSTED = _paired("p (Holm)", lambda own: own.p_adjusted, "p_adjusted", formats.p_value)


def _non_inferiority_source(place: str) -> Callable[[Part], str]:
    return lambda part: non_inferiority_source(part.arm, place)


_NON_TARGETS: tuple[Figure[Part], ...] = (
    Figure("non-target n", lambda part: part.arm.non_target_result.n,
        source=lambda part: non_target_part(part.arm).source("n")),
    Figure("non-target change", lambda part: part.arm.non_target_result.delta, formats.pp,
        lambda part: non_target_part(part.arm).source("delta")),
    Figure("one-sided bound", lambda part: part.arm.non_targets.non_inferiority.lower_bound,
        formats.pp, _non_inferiority_source("lower_bound")),
    words("non-inferior", lambda part: non_inferior_words(part.arm),
        _non_inferiority_source("non_inferior")),
)  # fmt: skip


def domain_details(result: RunResult) -> Table:
    """Return one row per arm and non-target domain, with every figure; p-values not adjusted."""
    caption = "The same tests as above, by domain; these p-values are exploratory and not adjusted."
    figures = (
        *PART,
        words("domain", lambda part: part.name),
        *paired_figures(),
        words("test", lambda part: part.figures.test, lambda part: part.source("test")),
    )

    def facets(part: Part) -> Facets:
        own = tuple(dict.fromkeys((part.arm.target, part.name)))
        return facets_of(part.arm, result.significance_level) | {"domain": own}

    parts = (part for arm in result.arms for part in domain_parts(arm))
    return make_table("domain-details", caption, figures, parts, facets)


def by_domain(result: RunResult) -> Table:
    """Return the change of each non-target domain, one row per arm."""
    domains = dict.fromkeys(row.domain for arm in result.arms for row in arm.domains)
    figures = (*ARM, *map(_domain_change, domains))
    return table_of_arms("domains", "Change against base, percentage points.", figures, result)


def _domain_change(domain: str) -> Figure[Arm]:
    return Figure(
        domain,
        lambda arm: {row.domain: row.delta for row in arm.domains}.get(domain),
        formats.pp,
        lambda arm: arm_source(arm, f"domains[{domain}].delta"),
        blank="target",
    )

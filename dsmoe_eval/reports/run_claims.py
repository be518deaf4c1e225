"""The claims that each arm of a run may make, and the cost of its generated answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..results.arms import Arm
from ..results.paired import Answers, Paired, Rates
from ..results.schema import RunResult
from ..stats import Claim
from ..variants import get_variant
from . import formats
from .run_arms import (
    ARM,
    Part,
    arm_source,
    facets_of,
    non_target_part,
    table_of_arms,
    target_part,
)
from .table import Facets, Figure, Table, Value, make_table, otherwise, words


def generalization(result: RunResult) -> Table:
    """Return one row per arm that makes a claim: the claim, the gain and the cost."""
    caption = (
        f"Improves, harms: Holm-adjusted p at most {result.significance_level}, among all arms of "
        f"the plan; equivalent: the 95 % interval lies inside {formats.margin(result.margin)} pp; "
        "else inconclusive. Beyond placebo, beyond wrong domain: on the target, against the arm's "
        "own control on the same items, of several draws of random experts their mean. Beyond "
        "naming the domain: against the arm that names it in the prompt. All domains non-inferior: "
        "each is at the margin (intersection-union test); domains that fell: a drop with "
        f"Holm-adjusted p at most {result.significance_level} among the arm's domains. Flipped: "
        "items whose score changed either way, on the target and elsewhere. Tokens: generated, "
        "over base's. A loss can be real and yet smaller than the margin: harms, and non-inferior."
    )
    claiming = [arm for arm in result.arms if arm.target_result.claim is not None]
    learned = any(arm.over_pooled is not None for arm in claiming)
    varied = [get_variant(arm.variant).adds_loss for arm in claiming if arm.over_lora is not None]
    plain = replace(_OVER_LORA, name="beyond sft-lora") if not all(varied) else _OVER_LORA
    more = (*((_OVER_POOLED,) if learned else ()), *((plain,) if varied else ()))
    figures = (*ARM, *_CLAIMS, *more)
    return table_of_arms("claims", caption, figures, result, claiming)


def _at(place: str) -> Callable[[Arm], str]:
    return lambda arm: arm_source(arm, f"generalization.{place}")


def _verdict(claim: Claim | None) -> str:
    return "no claim" if claim is None else claim.verdict


def _over_control(figures: Paired | None) -> Value:
    return "no control" if figures is None else (figures.delta, _verdict(figures.claim))


def _worst(arm: Arm) -> Value:
    change = arm.generalization.non_target_change
    return change.worst, change.worst_domain


def _flipped(arm: Arm) -> Value:
    flipped = arm.generalization.flipped
    return flipped.target, flipped.non_target


_OVER_POOLED: Figure[Arm] = Figure(
    "beyond all targets' answers",
    lambda arm: "" if arm.over_pooled is None else _over_control(arm.over_pooled),
    formats.pp_and,
    lambda arm: arm_source(arm, "over_pooled"),
)
"""Of a learned profile: beyond the one that was learned on the answers of all targets."""
_OVER_LORA: Figure[Arm] = Figure(
    "beyond the training without its loss",
    lambda arm: "" if arm.over_lora is None else _over_control(arm.over_lora),
    formats.pp_and,
    lambda arm: arm_source(arm, "over_lora"),
)
"""Of a training that adds a loss, or is on a quantized model: beyond `sft-lora` of its budget."""
_CLAIMS: tuple[Figure[Arm], ...] = (
    words("target claim", lambda arm: _verdict(arm.target_result.claim),
        lambda arm: target_part(arm).source("claim")),
    words("non-target claim", lambda arm: _verdict(arm.non_target_result.claim),
        lambda arm: non_target_part(arm).source("claim")),
    Figure("beyond placebo", lambda arm: _over_control(arm.generalization.over_placebo),
        formats.pp_and, _at("over_placebo")),
    Figure("beyond wrong domain", lambda arm: _over_control(arm.generalization.specificity),
        formats.pp_and, _at("specificity")),
    Figure("beyond naming the domain",
        lambda arm: _over_control(arm.generalization.over_prompt) if not arm.control_of else "",
        formats.pp_and, _at("over_prompt")),
    Figure("worst domain", _worst, formats.pp_of, _at("non_target_change.worst")),
    words("all domains non-inferior",
        lambda arm: "yes" if arm.generalization.all_non_inferior.non_inferior else "not shown",
        _at("all_non_inferior")),
    words("domains that fell", lambda arm: ", ".join(arm.generalization.regressions) or "none",
        _at("regressions")),
    Figure("retention", lambda arm: otherwise(arm.generalization.retention, "-"), formats.percent,
        _at("retention")),
    Figure("flipped", _flipped, formats.percents, _at("flipped")),
    Figure("tokens", lambda arm: otherwise(arm.generalization.tokens_ratio, "-"),
        formats.hundredths, _at("tokens_ratio")),
)  # fmt: skip


def answers(result: RunResult) -> Table:
    """Return length and validity of generated answers, base's and then the variant's."""
    caption = (
        "Base to variant. Truncated: ended by the limit of tokens. Invalid: the task's own rule of "
        "extraction finds no answer. Both in full: items on which no answer of base or variant is "
        "either; a gain that is not there among them is one of format or length."
    )
    generated = [
        (part, part.figures.answers)
        for arm in result.arms
        for part in (target_part(arm), non_target_part(arm))
        if part.figures.answers is not None
    ]

    def facets(generated: Generated) -> Facets:
        return facets_of(generated[0].arm, result.significance_level)

    return make_table("answers", caption, _ANSWERS, generated, facets)


Generated = tuple[Part, Answers]
"""A comparison, and the statistics of the answers that it compares."""


def _answers(
    name: str,
    value: Callable[[Part, Answers], Value | None],
    place: str,
    show: Callable[..., str] = str,
) -> Figure[Generated]:
    return Figure(name, lambda both: value(*both), show, lambda both: both[0].source(place))


def _sides(answers: Answers, rate: Callable[[Rates], float]) -> Value:
    """Return a rate of base and of the variant."""
    return rate(answers.a), rate(answers.b)


_ANSWERS: tuple[Figure[Generated], ...] = (
    words("variant", lambda both: both[0].arm.variant),
    words("target", lambda both: both[0].arm.target),
    words("of", lambda both: both[0].name),
    _answers("n", lambda _, told: told.n, "answers.n"),
    _answers("tokens", lambda _, told: _sides(told, lambda rates: rates.mean_tokens),
        "answers.a and .b.mean_tokens", formats.decimals),
    _answers("truncated", lambda _, told: _sides(told, lambda rates: rates.truncated),
        "answers.a and .b.truncated", formats.percent_to_percent),
    _answers("invalid", lambda _, told: _sides(told, lambda rates: rates.invalid),
        "answers.a and .b.invalid", formats.percent_to_percent),
    _answers("change", lambda part, told: part.figures.delta if told.n == part.figures.n else None,
        "delta", formats.pp),
    _answers("both in full", lambda _, told: told.both_whole.n, "answers.both_whole.n"),
    _answers("change of these", lambda _, told: told.both_whole.delta, "answers.both_whole.delta",
        formats.pp),
)  # fmt: skip

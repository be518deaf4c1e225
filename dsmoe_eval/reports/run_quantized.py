"""The arms on quantized models: what they gain there, and how far these models route as base."""

from __future__ import annotations

from collections.abc import Callable

from ..results.arms import Arm
from ..results.paired import Paired
from ..results.schema import QuantizedRouting, RunResult
from ..variants import get_variant
from . import formats
from .run_arms import ARM, arm_source, arms_of, sign_of_change, table_of_arms
from .table import Figure, Table, Value


def quantized_gains(result: RunResult) -> Table:
    """Return one row per arm on a quantized model: its gains over base and over that model."""
    caption = (
        "Arms on the model whose experts are rounded: base-int4 is that model itself, and "
        "contrast-int4 steers it by the very profile of contrast. Beyond the quantized model: on "
        "the target, against that model without steering, on the same items; a sham must equal it. "
        "Agreement: the share of selected experts that are base's, without steering, over some of "
        "the identification text; by chance: of selections of other tokens."
    )
    shown = [arm for arm in result.arms if get_variant(arm.variant).quantized is not None]

    def beyond(arm: Arm) -> Value:
        row = arm.over_quantized
        return "" if row is None else _interval(row, result.significance_level)

    def of_base(arm: Arm) -> Value:
        return _interval(arm.target_result, result.significance_level)

    def agreement(arm: Arm) -> Value:
        found = rounded_routing(arm, result)
        return "-" if found is None else (found.agreement.shared, found.agreement.by_chance)

    figures: tuple[Figure[Arm], ...] = (
        *ARM,
        Figure("gain over base", of_base, _marked, _at("target_result.delta")),
        Figure("beyond the quantized model", beyond, _marked, _at("over_quantized.delta")),
        Figure("agreement with base, by chance", agreement, formats.percents,
            lambda arm: f"comparisons.json: quantized[{get_variant(arm.variant).quantized}]"),
    )  # fmt: skip
    return table_of_arms("quantized", caption, figures, result, shown)


def _interval(row: Paired, level: float) -> Value:
    return (row.delta, *row.ci95, sign_of_change(row.p_adjusted, row.delta, level))


def _marked(value: float, low: float, high: float, mark: str) -> str:
    return f"{formats.pp_with_interval(value, low, high)}{f' {mark}' if mark else ''}"


def _at(place: str) -> Callable[[Arm], str]:
    return lambda arm: arm_source(arm, place)


def rounded_routing(arm: Arm, result: RunResult) -> QuantizedRouting | None:
    """Return how far the quantized model of an arm agrees with base; None where it is unknown."""
    form = get_variant(arm.variant).quantized
    return next((row for row in result.quantized if row.form == form), None)


def quantized_findings(result: RunResult) -> list[str]:
    """Return a sentence per quantized model on its routing, and one per arm on its gain there."""
    found = [
        f"The {row.form} model selects {row.agreement.shared:.1%} of base's experts over "
        f"{row.agreement.tokens:,} tokens of identification text ({row.agreement.by_chance:.1%} "
        "would be common by chance)."
        for row in result.quantized
    ]
    return found + [words for name in result.variants if (words := _beyond(name, result))]


def _beyond(name: str, result: RunResult) -> str:
    variant, level = get_variant(name), result.significance_level
    rows = [(arm.target, arm.over_quantized) for arm in arms_of(result, name)]
    known = [(target, row) for target, row in rows if row is not None]
    if not known or variant.family != "arms":
        return ""
    signs = {target: sign_of_change(row.p_adjusted, row.delta, level) for target, row in known}
    gains, losses = ([one for one, sign in signs.items() if sign == mark] for mark in "▲▼")
    changes = [row.delta for _, row in known]
    return (
        f"Beyond the {variant.quantized} model without it, {name} improves "
        f"{formats.named(gains, len(known), 'targets')}"
        + (f" and harms {formats.named(losses, len(known), 'targets')}" if losses else "")
        + f"; {formats.points_interval(min(changes), max(changes))} pp."
    )

"""The arms that an arm is compared with on its target, besides base, or that it must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..cards import ExpertSource, Variant
from ..variants import controls_for, get_variant
from .arms import Arm
from .terms import Information


@dataclass(frozen=True, slots=True)
class ArmCells:
    """An arm and its cells: task name -> cell id."""

    variant: Variant
    target: str
    settings: Mapping[str, object] | None
    profile: str | None
    cells: dict[str, str]
    information: Information


def other_arms(name: str, arm: ArmCells, arms: Sequence[ArmCells]) -> list[ArmCells]:
    """Return the arms on the same target that the comparison `name` of `OTHERS` is with."""
    there = {other.variant.name: other for other in arms if other.target == arm.target}
    found = OTHERS[name](arm.variant, [other.variant for other in there.values()])
    return [there[other.name] for other in found]


def quantized_model_of(arm: Arm, arms: Iterable[Arm]) -> Arm | None:
    """Return the quantized model without steering that an arm is on; None of other arms."""
    there = {one.variant: one for one in arms if one.target == arm.target}
    found = quantized_base(get_variant(arm.variant), [get_variant(name) for name in there])
    return there[found[0].name] if found else None


def equals_model(arm: Arm, arms: Iterable[Arm]) -> bool:
    """Return whether an arm scores as its model does without it: base, or the quantized one.

    On a quantized model all figures of the two arms are compared, and on the target the items.
    """
    if get_variant(arm.variant).quantized is None:
        return arm.equal_to_base
    model, over = quantized_model_of(arm, arms), arm.over_quantized
    if model is None or over is None or over.gained or over.lost:
        return False
    return _scores(arm) == _scores(model)


def _scores(arm: Arm) -> list[tuple[float, int, int]]:
    rows = (arm.target_result, *arm.domains)
    return [(row.score_b, row.gained, row.lost) for row in rows]


def _controls(
    source: ExpertSource, own: Variant, variants: Sequence[Variant]
) -> tuple[Variant, ...]:
    return controls_for(own, source, variants)


def naming_variant(own: Variant, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the variant that names the target's domain, beside variants that do not."""
    if own.kind in ("prompt", "base") or own.control_of is not None:
        return ()
    return _first(
        variants,
        lambda other: (
            (other.kind, other.quantized) == ("prompt", own.quantized) and other.control_of is None
        ),
    )


def plain_variant(own: Variant, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return `sft-lora` of a variant's budget; empty of other than trainings that vary it.

    These add a loss to it, or train on a quantized model.
    """
    varies = own.adds_loss or (own.kind == "sft" and own.quantized is not None)
    if not varies or own.control_of is not None:
        return ()
    plain = ("sft", "lora", own.epochs, None)
    return _first(
        variants,
        lambda other: (other.kind, other.trained_by, other.epochs, other.quantized) == plain,
    )


def quantized_base(own: Variant, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the quantized model without steering that a variant is on; empty of others."""
    if own.quantized is None or own.kind == "base":
        return ()
    return _first(variants, lambda other: (other.kind, other.quantized) == ("base", own.quantized))


def _first(variants: Sequence[Variant], fits: Callable[[Variant], bool]) -> tuple[Variant, ...]:
    """Return the first variant that fits, alone; empty without one."""
    return tuple(one for one in variants if fits(one))[:1]


OTHERS: Mapping[str, Callable[[Variant, Sequence[Variant]], tuple[Variant, ...]]] = {
    "over_placebo": partial(_controls, "random_matched"),
    "specificity": partial(_controls, "other_domain"),
    "over_prompt": naming_variant,
    "over_pooled": partial(_controls, "all_domains"),
    "over_lora": plain_variant,
    "over_quantized": quantized_base,
}
"""The names of `OVER` -> those variants of a plan; several are draws of one control."""

"""The arms that an arm is compared with on its target, besides base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..cards import ExpertSource, Variant
from ..variants import controls_for
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


def controls_of(source: ExpertSource, arm: ArmCells, arms: Sequence[ArmCells]) -> list[ArmCells]:
    """Return an arm's controls with experts of this source, draw by draw."""
    own = {other.variant.name: other for other in arms if other.target == arm.target}
    found = controls_for(arm.variant, source, [other.variant for other in own.values()])
    return [own[control.name] for control in found]


def naming_arm(arm: ArmCells, arms: Sequence[ArmCells]) -> list[ArmCells]:
    """Return the arm that names the target's domain in the prompt, beside arms that do not."""
    if arm.variant.kind in ("prompt", "base") or arm.variant.control_of is not None:
        return []
    return _first(
        arm,
        arms,
        lambda other: (
            (other.kind, other.quantized) == ("prompt", arm.variant.quantized)
            and other.control_of is None
        ),
    )


def plain_arm(arm: ArmCells, arms: Sequence[ArmCells]) -> list[ArmCells]:
    """Return `sft-lora` of an arm's budget; empty of other than trainings that vary it.

    These add a loss to it, or train on a quantized model.
    """
    own = arm.variant
    varies = own.adds_loss or (own.kind == "sft" and own.quantized is not None)
    if not varies or own.control_of is not None:
        return []
    plain = ("sft", "lora", own.epochs, None)
    return _first(
        arm,
        arms,
        lambda other: (other.kind, other.trained_by, other.epochs, other.quantized) == plain,
    )


def quantized_base(arm: ArmCells, arms: Sequence[ArmCells]) -> list[ArmCells]:
    """Return the quantized model without steering that an arm is on; empty of other arms."""
    form = arm.variant.quantized
    if form is None or arm.variant.kind == "base":
        return []
    return _first(arm, arms, lambda other: (other.kind, other.quantized) == ("base", form))


def _first(
    arm: ArmCells, arms: Sequence[ArmCells], fits: Callable[[Variant], bool]
) -> list[ArmCells]:
    """Return the first arm on the same target whose variant fits, in a list; empty without one."""
    return [one for one in arms if one.target == arm.target and fits(one.variant)][:1]


OTHERS: Mapping[str, Callable[[ArmCells, Sequence[ArmCells]], list[ArmCells]]] = {
    "over_placebo": partial(controls_of, "random_matched"),
    "specificity": partial(controls_of, "other_domain"),
    "over_prompt": naming_arm,
    "over_pooled": partial(controls_of, "all_domains"),
    "over_lora": plain_arm,
    "over_quantized": quantized_base,
}
"""The names of `OVER` -> those arms of a plan; several are draws of one control."""

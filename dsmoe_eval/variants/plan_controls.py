"""Which controls a plan's arms have: those that it lacks are added, each arm's are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from ..cards import ExpertSource, Rounding, Variant
from .catalog import BASE, get_variant


def with_controls(
    variants: Sequence[Variant], controls: Literal["full", "placebo", "none"], draws: int
) -> tuple[Variant, ...]:
    """Return a plan's variants with the controls that its arms lack, each arm's in one run.

    Quantized models of which only arms are there are added too, also if `controls` is `none`.

    Args:
        variants: the variants that the plan names.
        controls: as in `Plan`.
        draws: the number of draws of each placebo; a placebo that the plan names is the first.
    """
    added = []
    for arm in variants if controls != "none" else ():
        if arm.kind == "prompt" and arm.control_of is None:
            added += _lacking(arm, ["wrong"], variants)
        elif arm.kind == "learned" and arm.control_of is None:
            others = ["wrong", "pooled", "sham"] if controls == "full" else []
            added += _lacking(arm, ["shuffled", *others], variants)
        elif arm.recipe == "lora-cka" and arm.control_of is None:
            zero = ["zero"] if controls == "full" else []
            added += _lacking(arm, ["shuffled", *zero], variants)
        elif arm.takes_controls:
            matched = ["matched", *(f"matched-{draw}" for draw in range(2, draws + 1))]
            others = ["wrong", "sham"] if controls == "full" else []
            others = others[:1] if arm.trains_experts else others  # training has no strength
            added += _lacking(arm, [*matched, *others], variants)
    return (*variants, *_quantized_bases([*variants, *added]), *added)


def _quantized_bases(variants: Sequence[Variant]) -> list[Variant]:
    """Return `base-FORM` for each form of which there are arms, and no such variant."""
    there = {one.quantized for one in variants if one.kind == BASE}
    forms: list[Rounding] = [one.quantized for one in variants if one.quantized is not None]
    return [get_variant(f"{BASE}-{form}") for form in dict.fromkeys(forms) if form not in there]


def _lacking(arm: Variant, endings: Sequence[str], among: Sequence[Variant]) -> list[Variant]:
    """Return the controls of an arm by their endings, without those that are among variants."""
    found = []
    for ending in endings:
        control = get_variant(f"{arm.name}+{ending}")
        if not any(_same_control(control, other) for other in among):
            found.append(control)
    return found


def _same_control(one: Variant, other: Variant) -> bool:
    fields = ("kind", "method", "intervention", "keep", "expert_source", "control_of", "draw")
    return one.zero_strength == other.zero_strength and all(
        getattr(one, name) == getattr(other, name) for name in fields
    )


def controls_for(
    variant: Variant, source: ExpertSource, among: Iterable[Variant]
) -> tuple[Variant, ...]:
    """Return the controls that are the variant with other experts, draw by draw.

    A control of the same arm with another intervention, such as `suppress`, has other ones.

    Args:
        variant: the arm.
        source: `random_matched`: the placebo, for a learned profile that on shuffled answers, for
            `lora-cka` that on shuffled rows; `other_domain`: the specificity control.
        among: the plan's variants.
    """
    if variant.expert_source != "method" or variant.zero_strength:
        return ()
    if variant.kind == "learned" and source == "random_matched":
        source = "shuffled_answers"
    if variant.adds_loss and source == "random_matched":
        source = "shuffled_rows"
    controls = (
        one
        for one in among
        if one.control_of in {variant.name, variant.control_of}
        and one.control_of is not None
        and one.expert_source == source
        and (one.kind, one.intervention, one.keep)
        == (variant.kind, variant.intervention, variant.keep)
        and not one.zero_strength
    )
    return tuple(sorted(controls, key=lambda one: one.draw))


def describe_controls(variants: Iterable[Variant]) -> str:
    """Return which controls each arm has, in words: `contrast: random, contrast+matched-2`."""
    by_arm: dict[str, list[str]] = {}
    for one in variants:
        if one.control_of is not None:
            by_arm.setdefault(one.control_of, []).append(one.name)
    return "; ".join(f"{arm}: {', '.join(names)}" for arm, names in by_arm.items()) or "none"

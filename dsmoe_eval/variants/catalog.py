"""The variants that there are. A steering claim without its controls is not a claim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from ..cards import Kind, Variant
from ..errors import UserError
from ..experts import all_methods

BASE = "base"

_VARIANTS = (
    Variant(name=BASE, kind="base", summary="the model as it is"),
    Variant(
        name="sham",
        kind="steered",
        method="risk-difference",
        intervention="bias",
        control_of="contrast",
        null=True,
        summary="contrast at strength zero: must equal base on every item",
    ),
    Variant(
        name="dsmoe",
        kind="steered",
        method="dsmoe",
        intervention="reweight",
        summary="the paper: experts by Eq. 8, weights multiplied by alpha (Eq. 11)",
    ),
    Variant(
        name="dsmoe-bias",
        kind="steered",
        method="dsmoe",
        intervention="bias",
        summary="the paper's published code: experts by Eq. 8, logits raised by log(1 + strength)",
    ),
    Variant(
        name="contrast",
        kind="steered",
        method="risk-difference",
        intervention="bias",
        summary="experts by risk difference against the other domains, logits raised",
    ),
    Variant(
        name="random",
        kind="steered",
        method="risk-difference",
        intervention="bias",
        experts="matched",
        control_of="contrast",
        summary="placebo: random experts matched to contrast's on layer and exposure",
    ),
    Variant(
        name="wrong-domain",
        kind="steered",
        method="risk-difference",
        intervention="bias",
        experts="wrong",
        control_of="contrast",
        summary="another domain's contrast experts, on this target",
    ),
    Variant(
        name="frequency",
        kind="steered",
        method="frequency",
        intervention="bias",
        summary="the domain's most used experts, logits raised: what any domain score must beat",
    ),
    Variant(
        name="rice",
        kind="steered",
        method="npmi",
        intervention="amplify",
        summary="RICE: experts by nPMI with marker tokens, weights multiplied, no sum restored",
    ),
    Variant(
        name="steermoe",
        kind="steered",
        method="risk-difference",
        intervention="force",
        summary="SteerMoE: largest risk differences of either sign, forced in or out",
    ),
    Variant(
        name="suppress",
        kind="steered",
        method="risk-difference",
        intervention="mask",
        control_of="contrast",
        summary="contrast's experts switched off: what the domain loses without them",
    ),
    Variant(
        name="suppress-random",
        kind="steered",
        method="risk-difference",
        intervention="mask",
        experts="matched",
        control_of="contrast",
        summary="experts matched to contrast's on layer and exposure switched off",
    ),
    Variant(
        name="sft-lora",
        kind="sft",
        summary="LoRA on the target's tuning items, attention and expert weights",
    ),
)

VARIANTS = {variant.name: variant for variant in _VARIANTS}
"""Built-in variants by name, in the order of reports."""


def get_variant(name: str) -> Variant:
    """A variant by name, or any method with any intervention as `METHOD+INTERVENTION`.

    `METHOD+INTERVENTION+matched` and `...+wrong` are its controls: random experts of the same
    layers and exposure, and another domain's experts.

    Raises:
        UserError: unknown; the message lists what there is.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    method, _, rest = name.partition("+")
    kind, _, experts = rest.partition("+")
    if method in all_methods() and kind in get_args(Kind) and experts in ("", "matched", "wrong"):
        return Variant.model_validate(
            {
                "name": name,
                "kind": "steered",
                "method": method,
                "intervention": kind,
                "experts": experts or "own",
                "control_of": f"{method}+{kind}" if experts else None,
                "summary": f"{experts or 'best'} experts by {method}, {kind}",
            }
        )
    raise UserError(
        f"no variant {name!r}; there are: {', '.join(VARIANTS)}; or METHOD+INTERVENTION, such as "
        "frequency+bias, and its controls frequency+bias+matched and +wrong"
    )


def control_for(
    variant: Variant, experts: Literal["matched", "wrong"], among: Iterable[Variant]
) -> Variant | None:
    """The control that does the same as a variant with other experts; None where there is none.

    Args:
        variant: the arm.
        experts: `matched`: the placebo, random ones. `wrong`: another domain's.
        among: the plan's variants.
    """
    controls = (
        one
        for one in among
        if one.control_of == variant.name
        and one.experts == experts
        and one.intervention == variant.intervention
        and not one.null
    )
    return next(controls, None)

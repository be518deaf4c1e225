"""The variants that there are. A steering claim without its controls is not a claim."""

from __future__ import annotations

from ..cards import Variant
from ..errors import UserError

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
        name="sft-lora",
        kind="sft",
        summary="LoRA on the target's tuning items, attention and expert weights",
    ),
)

VARIANTS = {variant.name: variant for variant in _VARIANTS}
"""Built-in variants by name, in the order of reports."""


def get_variant(name: str) -> Variant:
    """A variant by name.

    Raises:
        UserError: unknown; the message lists what there is.
    """
    if name not in VARIANTS:
        raise UserError(f"no variant {name!r}; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]

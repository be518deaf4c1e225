"""The catalogue of variants. A steering claim without its controls is not a claim.

A built-in variant is a file in `benchmarks/variants`. A user's variant is a file in a folder
`variants` beside the plan or one level above it, or in the working directory or one level above
that. A result identifies variants by name alone and is read in the working directory, so a run
accepts only the variants that are visible from there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from ..cards import LOSS_CONTROLS, ExpertSource, Kind, Variant
from ..errors import UserError
from ..experts import all_methods
from ..registry import builtin_folder, builtin_names, load_variant, search_card

BASE = "base"
_CONTROL = re.compile(
    r"(.+)\+(?:(matched)(?:-([2-9]|[1-9]\d+))?|(wrong)|(sham)|(shuffled)|(pooled)|(zero))"
)
"""A control's name: that of its arm, and the kind of control, for `matched` with its draw."""
_BUDGET = re.compile(r"(.+)-x([1-9]\d{0,3})")
"""The name of a fine-tuned variant with a budget: that of the variant, and the epochs."""
_QUANTIZED = re.compile(r"(.+)-(int8|int4|fp8)")
"""The name of an arm on a quantized model: that of the arm, and the form of the weights."""
_PRUNED = re.compile(r"prune-([1-9]\d*)")
"""The end of a pruned model's name: how many experts each layer keeps."""


@functools.cache
def all_variants() -> Mapping[str, Variant]:
    """Return the built-in variants by name."""
    folder = builtin_folder() / "variants"
    return {name: load_variant(folder / f"{name}.yaml") for name in builtin_names("variants")}


def get_variant(name: str, beside: Path | None = None) -> Variant:
    """Return a variant by name, or any method with any intervention as `METHOD+INTERVENTION`.

    `METHOD+prune-K` keeps the K best experts of each layer.

    The controls of a variant are NAME+matched (random experts of the same layers and exposure;
    NAME+matched-2 is a second draw), NAME+wrong (another domain's experts) and NAME+sham (the
    strength is zero). A learned profile has NAME+shuffled (learned on shuffled answers), not
    NAME+matched, and NAME+pooled (on the answers of all targets). A fine-tuned variant has NAME-x3,
    the same with three epochs. `sft-lora-cka` has NAME+zero (its loss has no weight) and
    NAME+shuffled (it compares outputs of different tokens). NAME-int4 is NAME on the model with
    experts rounded to int4 (also -int8, -fp8); `base-int4` is that model itself.

    Args:
        name: a name, or the path of a YAML file.
        beside: a file, such as a plan, near which a user's variants may be.

    Raises:
        UserError: unknown; the message lists the known names. Or a user's file is not valid, or has
            the name of another variant.
    """
    own = own_file(name, beside)
    if own is not None:
        return _own_variant(own)
    variant = all_variants().get(name) or _combination(name) or _control(name, beside)
    variant = variant or _with_budget(name, beside) or _quantized(name, beside)
    if variant is None:
        raise UserError(
            f"no variant {name!r}; there are: {', '.join(all_variants())}; or "
            "METHOD+INTERVENTION, such as frequency+bias, or METHOD+prune-K, which keeps K experts "
            "per layer; the controls of each, VARIANT+matched, "
            "+wrong and +sham; VARIANT-int8, -int4 and -fp8, on the quantized model; or your own, "
            "as a .yaml file in a folder variants beside the plan, or where the command is started"
        )
    return variant


def planned_variant(name: str, plan: Path) -> Variant:
    """Return a variant that a plan names, after checking that its results can be read.

    Args:
        name: a name, or the path of a YAML file from the plan's folder.
        plan: the plan's file.

    Raises:
        UserError: as `get_variant`; or the plan's results would be of an unknown variant here.
    """
    variant = get_variant(name, plan)
    own = own_file(name, plan)
    if own is not None and own_file(variant.name) is None:
        raise UserError(
            f"{own}: results tell variants by name, and {variant.name!r} is not found from where "
            f"the command is started; start it in {own.resolve().parent.parent}, with the file in "
            "its folder variants"
        )
    if own is not None and get_variant(variant.name) != variant:
        raise UserError(f"{own}: {own_file(variant.name)} is another variant of the same name")
    return variant


def own_file(name: str, beside: Path | None = None) -> Path | None:
    """Return the file of a user's variant; None if the name is built in or combined.

    Raises:
        UserError: the name is a path, and there is no such file.
    """
    path = search_card("variants", name, beside)
    builtin = (builtin_folder() / "variants").resolve()
    return None if path is None or path.resolve().parent == builtin else path


def _own_variant(path: Path) -> Variant:
    variant = load_variant(path)
    if variant.name != path.stem:
        raise UserError(f"{path}: its name is {variant.name!r}; name file and variant alike")
    name = variant.name
    known = all_variants().get(name) or _combination(name) or _control(name, path)
    known = known or _quantized(name, path)
    if known not in (None, variant):
        raise UserError(
            f"{path}: {name!r} is a variant of dsmoe-eval's; results tell variants by "
            "name alone, so give yours another"
        )
    if variant.method is not None and variant.method not in all_methods():
        raise UserError(
            f"{path}: no method {variant.method!r}; there are: {', '.join(all_methods())}"
        )
    return variant


def _combination(name: str) -> Variant | None:
    method, _, kind = name.partition("+")
    pruned = _PRUNED.fullmatch(kind)
    if method not in all_methods() or not (pruned or kind in get_args(Kind)):
        return None
    keep = int(pruned[1]) if pruned else None
    summary = f"best experts by {method}, {kind}"
    if keep is not None:
        summary = f"pruned: each layer keeps its {keep} best experts by {method}"
    return Variant.model_validate(
        {
            "name": name,
            "kind": "steered",
            "method": method,
            "intervention": "prune" if pruned else kind,
            "keep": keep,
            "summary": summary,
        }
    )


def _with_budget(name: str, beside: Path | None) -> Variant | None:
    """Return a fine-tuned variant with another number of epochs than the plan's."""
    match = _BUDGET.fullmatch(name)
    if match is None:
        return None
    try:
        arm = get_variant(match[1], beside)
    except UserError:
        return None
    known = arm.control_of, arm.epochs, arm.quantized
    if arm.kind != "sft" or known != (None, None, None):
        return None
    epochs = int(match[2])
    summary = f"{arm.name} with {epochs} epoch{'s' if epochs > 1 else ''}"
    return arm.model_copy(update={"name": name, "epochs": epochs, "summary": summary})


def _quantized(name: str, beside: Path | None) -> Variant | None:
    """Return an arm, or base, on the model with experts rounded to the form that ends its name."""
    match = _QUANTIZED.fullmatch(name)
    if match is None:
        return None
    try:
        arm = get_variant(match[1], beside)
    except UserError:
        return None
    if arm.control_of is not None or arm.quantized is not None:
        return None
    if arm.kind == "sft" and arm.trained_by != "lora":
        raise UserError(
            f"no variant {name!r}: of fine-tuned variants only sft-lora is trained on a quantized "
            f"model; take sft-lora-{match[2]}, or bake the weights of {arm.name}, and quantize "
            "that checkpoint"
        )
    what = "the model" if arm.kind == BASE else f"{arm.summary}, on the model"
    summary = f"{what} with experts rounded to {match[2]}"
    changes = {"name": name, "quantized": match[2], "summary": summary}
    return Variant.model_validate(arm.model_dump() | changes)


def unquantized_arm(variant: Variant) -> str:
    """Return the name of the arm on the unrounded model whose settings a variant takes.

    It is that of `contrast` for `contrast-int4+matched`; a control's arm, and else its name.
    """
    arm = variant.control_of or variant.name
    return arm if variant.quantized is None else arm.removesuffix(f"-{variant.quantized}")


def _control(name: str, beside: Path | None) -> Variant | None:
    """Return the control of this name; None if it is no control's name, or of no such arm."""
    match = _CONTROL.fullmatch(name)
    if match is None:
        return None
    arm, matched, draw, _, sham, shuffled, pooled, zero = match.groups()
    if _CONTROL.fullmatch(arm):
        return None
    try:
        controlled = get_variant(arm, beside)
    except UserError:
        return None
    source: ExpertSource = "random_matched" if matched else "method" if sham else "other_domain"
    if shuffled or pooled:
        of_learned: ExpertSource = "shuffled_answers" if shuffled else "all_domains"
        source = "shuffled_rows" if shuffled and controlled.adds_loss else of_learned
    source = "zero_weight" if zero else source
    if not _may_have(controlled, source):
        return None
    changes = {
        "name": name,
        "expert_source": source,
        "control_of": arm,
        "zero_strength": bool(sham),
        "draw": int(draw or 1),
        "summary": _summary(controlled, source, draw),
    }
    return Variant.model_validate(controlled.model_dump() | changes)


def _may_have(arm: Variant, source: ExpertSource) -> bool:
    """Return whether an arm has the control with experts of this source."""
    if source in LOSS_CONTROLS:
        return arm.recipe == "lora-cka" and arm.control_of is None
    of_learned = source in ("shuffled_answers", "all_domains")
    if arm.kind == "learned" and arm.control_of is None:
        return source != "random_matched"
    if arm.kind == "prompt":
        return source == "other_domain"
    if arm.trains_experts and source == "method":  # training has no strength
        return False
    return arm.takes_controls and not of_learned


def _summary(arm: Variant, source: ExpertSource, draw: str | None) -> str:
    """Return the description of a control of an arm."""
    if source in LOSS_CONTROLS:
        how = {
            "shuffled_rows": "the outputs of different tokens compared",
            "zero_weight": "a weight of zero: must equal the same training without the loss",
        }
        return f"control: {arm.name} with {how[source]}, with the same compute"
    if source in ("shuffled_answers", "all_domains"):
        learned = {
            "shuffled_answers": "shuffled answers",
            "all_domains": "the answers of all targets",
        }
        return f"control: {arm.name} learned on {learned[source]}, with the same compute"
    things = {"residual": "vector", "prompt": "name", "learned": "shifts"}.get(arm.kind, "experts")
    if source == "other_domain":
        return f"control: another domain's {things}, otherwise {arm.name}"
    if source == "method":
        base = BASE if arm.quantized is None else f"{BASE}-{arm.quantized}"
        return f"control: {arm.name} at strength zero: must equal {base} on every item"
    if arm.keep is not None:
        drawn = f", draw {draw}" if draw else ""
        return f"placebo of {arm.name}: each layer keeps {arm.keep} random experts{drawn}"
    matched = "of the same norm" if arm.kind == "residual" else "matched on layer and exposure"
    return f"placebo of {arm.name}: random {things} {matched}" + (f", draw {draw}" if draw else "")

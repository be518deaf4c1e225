"""Checks of a plan that need no model and no data."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from ..cards import Plan, Suite, Tuning, Variant
from ..errors import UserError
from ..experts import get_method
from ..steering import Sites
from ..variants import BASE


def plan_sites(plan: Plan) -> Sites:
    """Return what a plan counts and steers."""
    return Sites(kind=plan.sites, block=plan.neurons.block)


def check_plan(
    plan: Plan, suite: Suite, variants: Sequence[Variant], targets: Sequence[str]
) -> None:
    """Check a plan's targets and variants before anything is loaded.

    Raises:
        UserError: a target that the suite lacks, or a variant that lacks what it needs.
    """
    names = [variant.name for variant in variants]
    if BASE not in names:
        raise UserError(f"plan {plan.name!r}: variants must hold {BASE!r}")
    if len(plan.variants) == 1:
        raise UserError(
            f"plan {plan.name!r}: variants holds {BASE!r} alone, so that nothing can be compared; "
            "add a variant, such as sham"
        )
    unknown = [target for target in targets if target not in suite.targets]
    if unknown:
        raise UserError(
            f"plan {plan.name!r}: {', '.join(unknown)} is no target of suite {suite.name!r}; "
            f"targets: {', '.join(suite.targets)}"
        )
    if fault := _line_fault(plan, suite):
        raise UserError(f"plan {plan.name!r}: {fault}")
    leading = {
        one.name: one
        for one in variants
        if one.takes_controls or one.adds_loss or one.kind in ("prompt", "learned")
    }
    for variant in variants:
        fault = _neurons_fault(variant, plan) or _variant_fault(variant, plan, suite, leading)
        if fault:
            raise UserError(f"plan {plan.name!r}: variant {variant.name!r} needs {fault}")
    if plan.stability is not None:
        stability_arm(plan, variants)
        _check_resampled(plan, variants)


def _check_resampled(plan: Plan, variants: Sequence[Variant]) -> None:
    """Refuse `stability` for methods whose scores cannot be resampled."""
    methods = [(one.name, get_method(one.method)) for one in variants if one.method]
    if tuned := [name for name, method in methods if method.router_tuning]:
        raise UserError(
            f"plan {plan.name!r}: stability does not resample what routers are tuned on "
            f"({', '.join(tuned)}); leave out one of the two"
        )
    reading = [name for name, method in methods if method.influence]
    if reading and plan.engine != plan.learner:
        raise UserError(
            f"plan {plan.name!r}: stability resamples the items of influence "
            f"({', '.join(reading)}) with the learner, which is not loaded any more when "
            f"{plan.engine} answers; leave out one of the two"
        )


def stability_arm(plan: Plan, variants: Sequence[Variant]) -> str:
    """Return the variant whose gain a plan with `stability` measures again.

    Raises:
        UserError: it is no variant of the plan that is tuned and steers experts, or there is none.
    """
    able = [
        one.name
        for one in variants
        if one.is_tuned and one.kind == "steered" and one.quantized is None
    ]
    name = None if plan.stability is None else plan.stability.arm
    if not able:
        raise UserError(
            f"plan {plan.name!r}: stability needs a variant that is tuned and steers experts, such "
            "as contrast; add one, or leave `stability` out"
        )
    if name is not None and name not in able:
        raise UserError(
            f"plan {plan.name!r}: stability.arm is {name!r}; give a variant of the plan that is "
            f"tuned and steers experts: {', '.join(able)}"
        )
    return name or able[0]


def _line_fault(plan: Plan, suite: Suite) -> str | None:
    """Return what is wrong with a line that names a domain; it would be left out silently."""
    for domain, line in plan.domain_lines.items():
        if domain not in suite.targets:
            return (
                f"domain_lines: {domain} is no target of suite {suite.name!r}; targets: "
                f"{', '.join(suite.targets)}"
            )
        if not line.strip():
            return f"domain_lines: the line of {domain} is empty; write one, or leave it out"
    return None


def check_engine(plan: Plan) -> None:
    """Check that the plan's engine is installed.

    Raises:
        UserError: the engine is not installed.
    """
    if plan.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            f"plan {plan.name!r}: vLLM is not installed; pip install 'dsmoe-eval[vllm]', or take "
            "engine: transformers"
        )


def _variant_fault(
    variant: Variant, plan: Plan, suite: Suite, leading: Mapping[str, Variant]
) -> str | None:
    if variant.control_of is not None and variant.control_of not in leading:
        return f"{variant.control_of!r}, the arm that it controls, in the plan"
    if variant.control_of is not None and (fault := _unit_fault(variant, plan, leading)):
        return fault
    if variant.is_tuned and (missing := _missing_setting(variant, plan.tuning)):
        return f"tuning.{missing} in the plan"
    if variant.expert_source == "other_domain" and len(suite.targets) < 2:
        return "a suite with two or more targets"
    if fault := _vllm_fault(variant, plan):
        return fault
    if plan.routing_from == "engine" and _needs_outputs(variant):
        return (
            f"routing_from: learner, since {variant.method} scores experts' outputs, which vLLM "
            "does not show"
        )
    if variant.kind == "learned" and plan.learned is None:
        return "the section learned in the plan"
    return _sft_fault(variant, plan) if variant.kind == "sft" else None


def _sft_fault(variant: Variant, plan: Plan) -> str | None:
    """Return the need of a fine-tuned variant whose settings or package are missing."""
    if plan.sft is None:
        return "the section sft in the plan"
    if key := plan.sft.missing(variant):
        return f"sft.{key} in the plan"
    if variant.rated_by == "lora" and importlib.util.find_spec("peft") is None:
        return "peft: pip install 'dsmoe-eval[sft]'"
    return None


def _unit_fault(variant: Variant, plan: Plan, leading: Mapping[str, Variant]) -> str | None:
    """Return the need of a control that cannot take its arm's strength, which is in sigma."""
    kind = leading[variant.control_of or ""].intervention
    if plan.tuning is None or kind is None or kind == "prune":
        return None
    tuned = plan.tuning.of(kind)
    if tuned is None or tuned[0] == "odds" or variant.intervention in ("bias", "mask"):
        return None
    return f"tuning.strengths.bias in place of bias_sigma: {variant.intervention} has no sigma"


def _missing_setting(variant: Variant, tuning: Tuning | None) -> str | None:
    """Return the key of the settings to try that a tuned variant needs and the plan lacks."""
    if variant.kind == "residual":
        return None if tuning is not None and tuning.residual is not None else "residual"
    kind = variant.intervention
    if tuning is None or kind is None or kind == "prune" or tuning.of(kind) is None:
        return f"strengths.{kind}"
    return None if tuning.expert_counts else "expert_counts"


def _neurons_fault(variant: Variant, plan: Plan) -> str | None:
    """Return the need of a variant that cannot steer neurons."""
    if plan.sites != "neurons":
        return None
    method = None if variant.method is None else get_method(variant.method)
    if variant.quantized is not None:
        return "sites: experts, since experts are what is quantized"
    if variant.kind == "learned":
        return "sites: experts, since it learns shifts of routers' logits"
    if variant.kind == "sft":
        return "sites: experts, since its adapters are of experts' weights"
    if variant.intervention in ("bias", "force"):
        return (
            f"intervention reweight, amplify or mask in place of {variant.intervention}: a dense "
            f"FFN has no logits; name it as METHOD+INTERVENTION, such as {variant.method}+amplify"
        )
    if method is not None and (method.contributions or method.router_tuning):
        return f"sites: experts, since {method.name} reads routed experts"
    if method is not None and method.activity and plan.neurons.block > 1:
        return f"neurons.block of 1, since {method.name} reads the activity of single neurons"
    return None


def _vllm_fault(variant: Variant, plan: Plan) -> str | None:
    """Return the need of a variant that cannot be learned in vLLM, which only shows routing."""
    if plan.learner != "vllm":
        return None
    if variant.kind == "sft":
        return "learner: transformers, since vLLM does not train; leave it out, or learn there"
    if variant.quantized is not None:
        return "learner: transformers, since the learner rounds the weights"
    if variant.kind == "learned":
        return "learner: transformers, since vLLM computes no gradients"
    method = None if variant.method is None else get_method(variant.method)
    if _needs_outputs(variant):
        return (
            "learner: transformers, since vLLM does not show experts' outputs, which "
            f"{variant.method} scores"
        )
    if method is not None and method.reads_answers:
        return f"learner: transformers, since vLLM computes no gradients, which {method.name} needs"
    if method is not None and method.saliency and plan.identification.saliency_model is None:
        return (
            "learner: transformers, since vLLM computes no gradients; or identification."
            "saliency_model in the plan (a small model of the same tokenizer will do)"
        )
    return None


def _needs_outputs(variant: Variant) -> bool:
    return variant.method is not None and get_method(variant.method).contributions

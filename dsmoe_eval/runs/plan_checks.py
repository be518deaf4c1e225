"""Checks of a plan that need no model and no data."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ..cards import Plan, Suite, Variant
from ..errors import UserError
from ..experts import get_method
from ..variants import BASE


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
    leading = [one.name for one in variants if one.is_tuned or one.kind == "prompt"]
    for variant in variants:
        fault = _variant_fault(variant, plan, suite, leading)
        if fault:
            raise UserError(f"plan {plan.name!r}: variant {variant.name!r} needs {fault}")


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
    variant: Variant, plan: Plan, suite: Suite, leading: Sequence[str]
) -> str | None:
    if variant.control_of is not None and variant.control_of not in leading:
        return f"{variant.control_of!r}, the arm that it controls, in the plan"
    if (
        variant.kind == "steered"
        and variant.is_tuned
        and (plan.tuning is None or variant.intervention not in plan.tuning.strengths)
    ):
        return f"tuning.strengths.{variant.intervention} in the plan"
    if variant.expert_source == "other_domain" and len(suite.targets) < 2:
        return "a suite with two or more targets"
    if plan.engine == "vllm" and (fault := _vllm_fault(variant, plan)):
        return fault
    if variant.kind == "sft" and plan.sft is None:
        return "the section sft in the plan"
    if variant.kind == "sft" and importlib.util.find_spec("peft") is None:
        return "peft: pip install 'dsmoe-eval[sft]'"
    return None


def _vllm_fault(variant: Variant, plan: Plan) -> str | None:
    """Return the need of a variant that vLLM cannot meet: gradients or experts' outputs."""
    if variant.kind == "sft":
        return "engine: transformers, since vLLM does not train; leave it out, or run it there"
    method = None if variant.method is None else get_method(variant.method)
    if method is not None and method.contributions:
        return (
            f"engine: transformers, since vLLM does not show experts' outputs, which {method.name} "
            "scores"
        )
    if method is not None and method.saliency and plan.identification.saliency_model is None:
        return (
            "identification.saliency_model in the plan (a small model of the same tokenizer will "
            "do), since vLLM computes no gradients; or engine: transformers"
        )
    return None

"""Each thing that a plan lacks is refused by name, before anything is loaded."""

import importlib.util

import pytest

from dsmoe_eval.cards import Learned, Sft, Stability, Tuning
from dsmoe_eval.cards.sections import Neurons
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_plan, load_suite
from dsmoe_eval.runs.plan_checks import check_engine, check_plan
from dsmoe_eval.variants import get_variant

PLAN = load_plan("lab")[0]
SUITE = load_suite("lab")
NO_COUNTS = Tuning.model_validate(
    {"strengths": {"bias": [1.0]}, "residual": {"depths": [0.5], "strengths": [1.0]}}
)

AMPLIFIED = {
    "sites": "neurons",
    "tuning": Tuning.model_validate({"expert_counts": [4], "strengths": {"amplify": [1.0]}}),
}


def checked(names, plan=PLAN, suite=SUITE, targets=("math",), **changes):
    plan = plan.model_copy(update=changes)
    check_plan(plan, suite, tuple(map(get_variant, names)), targets)


def test_the_plan_that_ships_lacks_nothing():
    checked(PLAN.variants, targets=SUITE.targets)
    check_engine(PLAN)


def test_influence_on_neurons_and_its_forecast_are_accepted():
    checked(["base", "influence+amplify", "influence-net+amplify"], foretell=True, **AMPLIFIED)


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (["contrast"], {}, "variants must hold 'base'"),
        (["base"], {"targets": ("alchemy",)}, "alchemy is no target of suite 'lab'"),
        (["base", "random"], {}, "'random' needs 'contrast', the arm that it controls"),
        (["base", "contrast"], {"tuning": None}, r"needs tuning\.strengths\.bias"),
        (["base", "residual"], {}, r"'residual' needs tuning\.residual in the plan"),
        (["base", "residual"], {"tuning": None}, r"'residual' needs tuning\.residual in the plan"),
        (["base", "contrast"], {"tuning": NO_COUNTS}, r"needs tuning\.expert_counts in the plan"),
        (["base", "sft-lora"], {"sft": None}, "'sft-lora' needs the section sft"),
        (["base", "sft-lora"], {"learner": "vllm"}, "since vLLM does not train"),
        (
            ["base", "sft-router"],
            {"sft": Sft(learning_rate={"esft": 0.1}, epochs=1, batch_size=1)},
            r"'sft-router' needs sft\.learning_rate\.router in the plan",
        ),
        (
            ["base", "sft-lora"],
            {"sft": Sft(learning_rate=0.1, rank=8, epochs=1, batch_size=1)},
            r"'sft-lora' needs sft\.lora_alpha in the plan",
        ),
        (["base", "sft-esft+matched"], {}, "needs 'sft-esft', the arm that it controls"),
        (["base", "sft-lora-cka+zero"], {}, "needs 'sft-lora-cka', the arm that it controls"),
        (
            ["base", "sft-simsmoe"],
            {"sft": Sft(learning_rate={"esft": 0.1}, epochs=1, batch_size=1)},
            r"'sft-simsmoe' needs sft\.learning_rate\.lora in the plan",
        ),
        (["base", "learned-profile"], {}, "'learned-profile' needs the section learned"),
        (
            ["base", "learned-profile"],
            {"learned": Learned(), "learner": "vllm"},
            "since vLLM computes no gradients",
        ),
        (
            ["base", "easy-ep+bias"],
            {"routing_from": "engine"},
            "needs routing_from: learner, since",
        ),
        (["base", "dsmoe"], {"learner": "vllm"}, "since vLLM computes no gradients"),
        (["base", "contrast"], {"sites": "neurons"}, "such as risk-difference\\+amplify"),
        (["base", "steermoe"], {"sites": "neurons"}, "in place of force: a dense FFN has no"),
        (["base", "learned-profile"], {"sites": "neurons"}, "'learned-profile' needs sites: exp"),
        (["base", "sft-lora"], {"sites": "neurons"}, "'sft-lora' needs sites: experts"),
        (["base", "easy-ep+amplify"], AMPLIFIED, "needs sites: experts, since easy-ep reads"),
        (
            ["base", "lape+amplify"],
            AMPLIFIED | {"neurons": Neurons(block=8)},
            r"needs neurons\.block of 1, since lape",
        ),
        (
            ["base", "prompt"],
            {"domain_lines": {"maths": "x"}},
            "lines: maths is no target of suite",
        ),
        (["base", "prompt"], {"domain_lines": {"math": " "}}, "the line of math is empty"),
    ],
)
def test_what_is_missing_is_named(names, changes, words):
    with pytest.raises(UserError, match=words):
        checked(names, **changes)


def test_a_control_of_another_kind_has_no_strength_in_sigma():
    strengths = {"bias_sigma": (1.0,)}
    tuning = PLAN.tuning.model_copy(update={"strengths": strengths})
    checked(["base", "contrast", "random", "suppress"], tuning=tuning)
    amplified = get_variant("random").model_copy(
        update={"name": "amplified", "intervention": "amplify"}
    )
    plan = PLAN.model_copy(update={"tuning": tuning})
    variants = (*map(get_variant, ("base", "contrast")), amplified)
    with pytest.raises(UserError, match="bias in place of bias_sigma: amplify has no sigma"):
        check_plan(plan, SUITE, variants, ("math",))


def test_stability_resamples_the_items_of_influence_while_the_learner_is_loaded():
    stability, arms = Stability(resamples=2), ["base", "contrast", "influence+bias"]
    checked(arms, stability=stability)
    checked(["base", "contrast"], stability=stability, engine="vllm")
    with pytest.raises(UserError, match=r"items of influence \(influence\+bias\) with the learner"):
        checked(arms, stability=stability, engine="vllm")


def test_another_domain_needs_a_second_target():
    suite = SUITE.model_copy(update={"tasks": ()})
    with pytest.raises(UserError, match="needs a suite with two or more targets"):
        checked(["base", "contrast", "wrong-domain"], suite=suite, targets=())


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'dsmoe-eval\[vllm\]'"):
        check_engine(PLAN.model_copy(update={"engine": "vllm"}))
    with pytest.raises(UserError, match=r"needs peft: pip install 'dsmoe-eval\[sft\]'"):
        checked(["base", "sft-lora"])

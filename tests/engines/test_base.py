"""What a run asks of a model in transformers, against the functions that do it; who is started."""

import json

import numpy as np
import pytest

from dsmoe_eval.engines.base import run_facts
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.engines.vllm import engine as in_vllm
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import expert_usage
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.models.prompt_format import PromptFormat
from dsmoe_eval.steering import Intervention, find_routers, steer

TEXTS = ["What is the sign of the root?", "In law, the keeper of the charge is"]


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


def test_a_model_in_transformers(loaded):
    engine = TransformersEngine(loaded, 64)
    assert engine.identity == loaded.identity
    assert (engine.dtype, engine.device) == ("float32", "cpu")
    assert engine.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())
    lm = engine.language_model(PromptFormat(chat=True), 3)
    assert (lm.batch_tokens, lm.seed, lm.format.chat, lm.uses_chat_template) == (64, 3, True, True)
    with pytest.raises(AttributeError):
        lm.seed = 4
    assert engine.reader().model is loaded.model
    engine.close()


def test_steered_within_the_context_only(loaded):
    engine = TransformersEngine(loaded)
    profile = trial_profile(loaded.identity, Intervention(kind="mask", strength=1.0), [0, 5])
    report = engine.probe(profile, TEXTS)
    assert report.logit_max_change > 0
    assert engine.prober(TEXTS).probe(profile) == report
    with steer(loaded.model, profile):
        expected = expert_usage(loaded.model, loaded.tokenizer, TEXTS)
    base = engine.usage(TEXTS)
    with engine.steer(profile):
        steered = engine.usage(TEXTS)
    np.testing.assert_array_equal(steered, expected)
    assert base[:, [0, 5]].any()
    assert not steered[:, [0, 5]].any()
    np.testing.assert_allclose(base.sum(1), find_routers(loaded.model)[0].top_k)
    np.testing.assert_array_equal(engine.usage(TEXTS), base)


def test_the_facts_of_a_run_name_all_versions(loaded):
    *axes, settings, versions = json.loads(run_facts(TransformersEngine(loaded)))
    assert axes == ["transformers", "cpu", "float32", loaded.experts_implementation]
    assert settings == {}
    assert versions.keys() == {"torch", "transformers"}


def test_vllm_is_started_as_asked(monkeypatch):
    started = []
    monkeypatch.setattr(in_vllm, "SteeredVllm", lambda *a, **options: started.append((a, options)))
    load_engine("lab-poly", "vllm")
    options = {"tensor_parallel_size": 2, "enforce_eager": True}
    load_engine("lab-poly", "vllm", batch_tokens=64, **options)
    (first, one), (second, two) = started
    assert first == second == ("lab-poly",)
    assert (one["enforce_eager"], two["enforce_eager"]) == (False, True)
    assert (two["tensor_parallel_size"], two["max_num_batched_tokens"]) == (2, 64)
    assert two["max_num_seqs"] <= 64  # vLLM wants room for a token of each
    with pytest.raises(UserError, match="--device is for the transformers engine"):
        load_engine("lab-poly", "vllm", "cpu")

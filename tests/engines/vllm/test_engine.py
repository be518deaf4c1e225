"""A model in vLLM shows what the same one in transformers shows."""

import os
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

from lm_eval.api.instance import Instance

from dsmoe_eval.cards import Identification
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.engines.requests import Request
from dsmoe_eval.engines.vllm.engine import VllmEngine, engine_options
from dsmoe_eval.engines.vllm.later import facts_of
from dsmoe_eval.engines.vllm.table import DEFAULT_CAPACITY
from dsmoe_eval.errors import UserError
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import (
    average_streams,
    count_domains,
    identify,
)
from dsmoe_eval.runs.routed import count_routed
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.steering import Intervention, SteeringError
from dsmoe_eval.tasks.loading import load_tasks

from ...conftest import vector_profile

pytestmark = pytest.mark.vllm

TEXTS = ["What is the sign of the root?", "In law, the keeper of the charge is"]


@pytest.fixture(scope="module")
def tasks():
    suite = load_suite("lab")
    return load_tasks(suite, suite.identification_tasks, "identification", 6)


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def theirs():
    engine = load_engine("lab-poly", "vllm", enforce_eager=True)
    yield engine
    engine.close()


def counts(engine, tasks, folder, *, contributions=False, **settings):
    wanted = IdentificationSpec(Identification(**settings), True, contributions, {"?": 1.0})
    return count_domains(engine, tasks, wanted, folder, lambda _: None)


def test_mean_streams_are_those_of_transformers(ours, theirs, tasks, tmp_path):
    both = [
        average_streams(engine, tasks, Identification(), tmp_path / engine.name, lambda _: None)
        for engine in (ours, theirs)
    ]
    assert both[0].domains == both[1].domains
    assert np.array_equal(both[0].tokens, both[1].tokens)
    assert both[0].sums.shape == both[1].sums.shape
    for domain in both[0].domains:
        difference = [means.difference(domain) for means in both]
        np.testing.assert_allclose(difference[1], difference[0], rtol=0, atol=1e-5)
        assert np.abs(difference[0]).max() > 0.1


def test_streams_of_too_few_tokens_are_refused(theirs):
    tokens = theirs.tokenizer(TEXTS[0])["input_ids"]
    long = (0, tokens, [True] * (len(tokens) + 1))
    with pytest.raises(SteeringError, match="did not show the residual stream of each token once"):
        theirs.engine.sum_streams([long], 1)
    assert theirs.engine.sum_streams([(0, tokens, [True] * len(tokens))], 1).any()


def test_it_is_the_same_model(ours, theirs):
    assert theirs.identity == ours.identity
    assert theirs.parameters == ours.parameters
    assert (theirs.dtype, theirs.device) == (ours.dtype, ours.device)
    assert theirs.settings == {"eager": True, "tensor_parallel": 1, "expert_parallel": False}


@pytest.mark.parametrize("settings", [{}, {"phase": "generated", "answer_tokens": 4}])
def test_the_same_routing(ours, theirs, tasks, tmp_path, settings):
    one, two = (
        counts(engine, tasks, tmp_path, saliency_model="lab-poly", **settings)
        for engine in (ours, theirs)
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.used, two.used)
    np.testing.assert_array_equal(one.marked, two.marked)
    np.testing.assert_allclose(one.gate, two.gate, atol=1e-4)


def test_the_routing_of_one_with_the_saliency_of_the_other(ours, theirs, tasks, tmp_path):
    job = SimpleNamespace(
        learner=ours, engine=theirs, roles=SimpleNamespace(seen=lambda: nullcontext(theirs)),
        identification=SimpleNamespace(tasks=tasks),
        folder=SimpleNamespace(observations=tmp_path),
    )  # fmt: skip
    wanted = IdentificationSpec(Identification(), True, False, {"?": 1.0})
    both, alone = count_routed(job, wanted, lambda _: None), counts(ours, tasks, tmp_path)
    np.testing.assert_array_equal(both.tokens, alone.tokens)
    np.testing.assert_array_equal(both.used, alone.used)
    assert both.has_saliency


def test_facts_are_known_before_the_start(theirs):
    facts, mark = facts_of("lab-poly", engine_options(8192, {"enforce_eager": True}))
    engine = theirs.engine
    for name in ("dtype", "device", "settings", "version", "generation", "max_length"):
        assert getattr(facts, name) == getattr(engine, name)
    assert mark == theirs.identity.fingerprint


def test_the_same_experts(ours, theirs, tmp_path):
    same, profile = (
        identify(engine, "lab", "law", "risk-difference", limit=6, root=tmp_path)
        for engine in (ours, theirs)
    )
    assert profile.source.engine == "vllm"
    assert profile.experts == same.experts


def test_what_it_cannot_show_is_refused(theirs, tasks, tmp_path):
    with pytest.raises(UserError, match="vLLM computes no gradients"):
        counts(theirs, tasks, tmp_path)
    with pytest.raises(UserError, match="vLLM does not show experts' outputs"):
        counts(theirs, tasks, tmp_path, contributions=True, saliency_model="lab-poly")


def test_the_same_usage_and_probes(ours, theirs):
    profile = trial_profile(ours.identity, Intervention(kind="bias", strength=3.0), [0, 5])
    np.testing.assert_allclose(theirs.usage(TEXTS), ours.usage(TEXTS))
    with ours.steer(profile), theirs.steer(profile):
        np.testing.assert_allclose(theirs.usage(TEXTS), ours.usage(TEXTS))
    one, two = (engine.probe(profile, TEXTS) for engine in (ours, theirs))
    assert two.null_max_difference == one.null_max_difference == 0.0
    assert two.selection_changed == pytest.approx(one.selection_changed)
    assert two.active_experts == one.active_experts


def test_texts_as_long_as_fit_are_scored(ours, theirs):
    """One that is cut into windows of whatever length each engine takes, and one that is not."""
    requests = [
        Instance("loglikelihood_rolling", {}, (" the root" * times,), index)
        for index, times in enumerate((3, 60))
    ]
    own, other = ours.language_model(), theirs.language_model()
    longest = other.max_length
    assert longest == own.max_length - 2
    other._score(other._arrange([([3], [4] * longest)]))
    with pytest.raises(UserError, match=re.escape(f"do not fit into the model's {longest}")):
        other._score(other._arrange([([3], [4] * (longest + 1))]))
    with pytest.raises(UserError, match="2 for its answer do not fit"):
        list(other._answer([Request((3,) * (longest - 1), 2)]))
    (one, _), (two, two_long) = (lm.loglikelihood_rolling(requests) for lm in (own, other))
    assert two == pytest.approx(one, abs=1e-4)
    assert two_long < two


def test_what_was_asked_before_changes_no_answer(theirs):
    """vLLM's cache is emptied: a prompt found in it would be computed in other pieces."""
    prompts = [[3 + i % 40 for i in range(100)], [3 + i % 40 for i in range(90)]]
    theirs.engine.generate(prompts, 1)
    outputs = []
    honest = theirs.engine._generate

    def watch(*args, **settings):
        outputs.extend(honest(*args, **settings))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.engine, "_generate", watch)
        theirs.engine.generate(prompts[:1], 1)
    assert outputs[0].num_cached_tokens == 0


def test_several_profiles_are_answered_in_one_batch(theirs, monkeypatch):
    """The answers are those of one profile after another; vectors steer the whole engine alone."""
    kinds = [("bias", 2.0), ("reweight", 3.0), ("bias", 4.0)]
    profiles = [
        trial_profile(theirs.identity, Intervention(kind=kind, strength=size), range(1, 5))
        for kind, size in kinds
    ]
    profiles += [profiles[0], vector_profile(theirs.identity, {0: (0.1,) * 96})]
    lm = theirs.language_model()
    settings = {"until": ["."], "max_gen_toks": 8}

    def ask(lm):
        scores = lm.log_likelihoods(
            [(text, word) for text in TEXTS for word in (" 1", " the cell")]
        )
        answers = lm.complete([(text, settings) for text in TEXTS])
        return scores, answers, lm.forward_tokens

    calls, generate = [], theirs.engine._llm.generate
    monkeypatch.setattr(
        theirs.engine._llm, "generate", lambda *a, **k: calls.append(a) or generate(*a, **k)
    )
    found = theirs.steer_each(lm, profiles, [ask] * len(profiles))
    assert len(calls) == 4  # scores and answers: of four profiles together, of the last alone
    assert len(calls[0][0]) == 4 * len(calls[2][0])
    for profile, (scores, answers, tokens) in zip(profiles, found, strict=True):
        with theirs.steer(profile):
            alone = theirs.language_model()
            expected, wanted, computed = ask(alone)
        assert answers == wanted
        assert [one for one, _ in scores] == pytest.approx([one for one, _ in expected], abs=1e-5)
        assert tokens == pytest.approx(computed, abs=1)
    assert found[0][:2] == found[3][:2]
    assert theirs.engine.profiles() == []


def test_more_profiles_than_vllm_has_room_for_are_answered_in_several_batches(theirs, monkeypatch):
    sizes = []

    def some(_self, _lm, profiles, callers):
        sizes.append(len(profiles))
        return list(callers)

    monkeypatch.setattr(VllmEngine, "_steer_some", some)
    number = 2 * DEFAULT_CAPACITY + 1
    found = theirs.steer_each(theirs.language_model(), [None] * number, list(range(number)))
    assert (sizes, found) == ([DEFAULT_CAPACITY, DEFAULT_CAPACITY, 1], list(range(number)))

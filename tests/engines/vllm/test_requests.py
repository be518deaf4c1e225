"""Requests with unknown profiles are refused before they are queued."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.loader import build_custom_logits_processors

from dsmoe_eval.engines.vllm.forcing import ForcedTokens
from dsmoe_eval.engines.vllm.launch import FORCING, PROCESSOR
from dsmoe_eval.engines.vllm.requests import KNOWN, ProfileRequests
from dsmoe_eval.engines.vllm.table import PROFILE

pytestmark = pytest.mark.vllm


def test_names_are_checked():
    assert f"{ProfileRequests.__module__}:{ProfileRequests.__name__}" == PROCESSOR
    for extra in (None, {}, {"other": 1}):
        ProfileRequests.validate_params(SamplingParams(extra_args=extra))
    named = SamplingParams(extra_args={PROFILE: "math"})
    with pytest.raises(ValueError, match="'math' is not loaded; loaded are: none"):
        ProfileRequests.validate_params(named)
    KNOWN.add("math")
    ProfileRequests.validate_params(named)
    KNOWN.discard("math")


def test_the_second_model_runner_takes_both_processors():
    slots = dict.fromkeys(("all_token_ids", "prompt_len", "prefill_len", "total_len"))
    state = SimpleNamespace(device="cpu", max_num_reqs=2, vocab_size=4, **slots)
    names = [PROCESSOR, FORCING]
    profiles, forced = build_custom_logits_processors(None, state, False, names)
    assert (type(profiles), type(forced)) == (ProfileRequests, ForcedTokens)
    assert not profiles.add_request(0, SamplingParams())
    logits = torch.zeros(1, 4)
    assert profiles.apply(logits, None) is logits

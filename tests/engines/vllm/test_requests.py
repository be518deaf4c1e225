"""Requests with unknown profiles are refused before they are queued."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm import SamplingParams

from dsmoe_eval.engines.vllm.launch import PROCESSOR
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

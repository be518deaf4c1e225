"""What is decided before vLLM is imported."""

import os
import sys

import pytest

from dsmoe_eval.engines.vllm.launch import quieten, start_llm
from dsmoe_eval.errors import UserError


@pytest.mark.parametrize(("given", "then"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_usage_reports_are_off_unless_the_user_asks_for_them(given, then, monkeypatch):
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", given or "")
    if given is None:
        del os.environ["VLLM_NO_USAGE_STATS"]
    monkeypatch.setitem(sys.modules, "vllm", None)  # its import fails
    with pytest.raises(UserError, match="vLLM is not installed"):
        start_llm("lab-poly", "place", "auto", {})
    assert os.environ["VLLM_NO_USAGE_STATS"] == then


@pytest.mark.parametrize(("given", "then"), [(None, "ERROR"), ("INFO", "INFO")])
def test_only_errors_of_vllm_are_shown_unless_the_user_asks_for_more(given, then, monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", given or "")
    if given is None:
        del os.environ["VLLM_LOGGING_LEVEL"]
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "")
    del os.environ["VLLM_LOGGING_STREAM"]
    quieten()
    assert os.environ["VLLM_LOGGING_LEVEL"] == then
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


@pytest.mark.parametrize(
    "options",
    [
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
        {"spec_method": "ngram"},
        {"spec_model": "small"},
        {"spec_tokens": 2},
    ],
)
def test_speculative_decoding_is_refused(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=f"^{next(iter(options))}: speculative decoding"):
        start_llm("lab-poly", "place", "auto", options)

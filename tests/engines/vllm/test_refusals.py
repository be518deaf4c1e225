"""Refusals of workers are recognised by their text; other errors pass as they are."""

import pytest

from dsmoe_eval.engines.vllm.refusals import REFUSED, agreed, worker_refusals
from dsmoe_eval.steering import SteeringError


def test_a_refusal_comes_back_from_a_longer_text():
    words = "layer 1: two\nlines [and brackets]"
    with pytest.raises(SteeringError) as caught, worker_refusals():
        raise RuntimeError(f"worker 0 failed: {REFUSED.format(words)} at step 3")
    assert str(caught.value) == words


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="out of memory"), worker_refusals():
        raise RuntimeError("out of memory")


def test_workers_must_agree():
    assert agreed("dsmoe_profiles", [["a"], ["a"]]) == ["a"]
    with pytest.raises(SteeringError, match="workers disagree on dsmoe_profiles"):
        agreed("dsmoe_profiles", [["a"], ["b"]])

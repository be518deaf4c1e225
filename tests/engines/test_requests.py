"""Requests and answers, without an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.engines.requests import Answer, Request, Sampling, cut, split_reasoning


@pytest.mark.parametrize(
    ("stops", "expected"),
    [((), "a. b\nc"), (("\n",), "a. b"), (("\n", ". "), "a"), (("a",), ""), (("z",), "a. b\nc")],
)
def test_a_text_ends_before_its_first_stop(stops, expected):
    assert cut("a. b\nc", stops) == expected


def test_a_greedy_copy_asks_for_log_probabilities_and_nothing_else():
    request = Request((1, 2), 9, stops=(".",), after=(7,), sampling=Sampling(1.0, seed=0))
    assert request.greedy(4) == Request((1, 2), 4, top_logprobs=0)
    assert request.greedy(40).limit == 9


@pytest.mark.parametrize(
    ("tokens", "reason", "expected"),
    [
        ((1, 2, 8, 9, 3), "stop", ((1, 2), (3,))),
        ((1, 8, 9, 2, 8, 9, 3), "stop", ((1, 8, 9, 2), (3,))),  # the last marker counts
        ((1, 2), "stop", (None, (1, 2))),  # it did not think
        ((1, 2), "max_tokens", ((1, 2), ())),  # it thought until its limit
        ((8, 9), "max_tokens", ((), ())),
    ],
)
def test_thought_stands_before_the_last_marker(tokens, reason, expected):
    assert split_reasoning(Answer(tokens, reason), (8, 9)) == expected


@given(st.lists(st.integers(0, 3)).map(tuple))
def test_without_a_marker_all_is_said(tokens):
    assert split_reasoning(Answer(tokens, "max_tokens"), ()) == (None, tokens)

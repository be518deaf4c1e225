"""Callers of one engine meet, and their requests are answered in one batch."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.engines.vllm.together import Meeting


def _doubling(batches):
    def answer(work):
        batches.append((threading.current_thread() is threading.main_thread(), list(work)))
        return [2 * one for one in work]

    return answer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=5))
def test_batches_are_those_of_all_callers_that_still_ask(asked):
    batches = []

    def caller(numbers):
        return lambda exchange: [exchange(number) for number in numbers]

    found = Meeting(_doubling(batches)).run([caller(numbers) for numbers in asked])
    assert found == [[2 * number for number in numbers] for numbers in asked]
    longest = max(map(len, asked))
    # The batches depend on what is asked and not on the order in which threads run.
    assert batches == [
        (True, [numbers[turn] for numbers in asked if turn < len(numbers)])
        for turn in range(longest)
    ]


def test_an_error_of_a_caller_ends_all():
    ended = []

    def fails(exchange):
        exchange(1)
        raise ValueError("of the first")

    def waits(exchange):
        try:
            while True:
                exchange(2)
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="of the first"):
        Meeting(_doubling([])).run([fails, waits])
    assert ended == [True]


def test_an_error_of_the_engine_ends_all():
    def broken(_work):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        Meeting(broken).run([lambda exchange: exchange(1)] * 3)
    assert threading.active_count() == before

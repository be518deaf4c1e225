"""The count of shared tokens: by hand, and that its table is of the plan as it stands."""

from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def shared_tokens(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import shared_tokens

    return shared_tokens


def test_each_form_computes_what_it_says(shared_tokens):
    header = tuple(range(100))
    call = [((*header, n), (7, option, 9)) for n in (200, 201) for option in (300, 301)]
    # Both options begin with 7, which only a tree sees.
    assert shared_tokens.two_levels(call) == 100 + 2 * (1 + 2 * 2)
    assert shared_tokens.best(call) == 100 + 2 * (1 + 1 + 2)
    assert shared_tokens.tree(call) == shared_tokens.best(call)


def test_the_table_is_of_the_plan_as_it_stands(shared_tokens):
    for line in shared_tokens.lines():
        assert line in shared_tokens.__doc__
    for calls in shared_tokens.kinds().values():
        ours, *others, best, _ = shared_tokens.counts(calls)
        assert best <= ours <= min(others) * 1.001 or len(calls) > 1

"""The benchmark of scoring runs, its passes agree, and its floor counts what it says."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def scoring(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import scoring
    import scoring_arms

    monkeypatch.setattr(scoring_arms, "BATCH_SIZES", {"cpu": (4,)})
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    return scoring


def tiny(scoring):
    return scoring.Settings(items=2, slow_items=1, rounds=1, shots=1, layers=1)


def numbers(thing):
    for value in thing.values() if isinstance(thing, dict) else thing:
        if isinstance(value, dict | list | tuple):
            yield from numbers(value)
        elif isinstance(value, int | float):
            yield value


@pytest.mark.slow  # of a benchmark, not of the package
def test_all_passes_give_the_same(scoring):
    report = scoring.measure(tiny(scoring))
    assert [figures.kind for figures in report.figures] == [kind.name for kind in scoring.KINDS]
    for figures in report.figures:
        assert len(figures.rows) == 4
        assert all(row.difference <= 1e-4 for row in figures.rows)
    found = json.loads(json.dumps(asdict(report)))
    assert all(math.isfinite(value) and value >= 0 for value in numbers(found))
    assert "| lm-eval `hf`" in scoring.markdown(report)


@pytest.mark.slow  # of a benchmark, not of the package
def test_another_answer_is_seen(scoring, monkeypatch):
    monkeypatch.setattr("scoring_arms.published", lambda *asked: [(0.0, False)] * len(asked[-1]))
    settings = tiny(scoring)
    with pytest.raises(ValueError, match=r"one forward an option is .* off ours"):
        scoring.measure_kind(scoring.make_subject(settings), scoring.KINDS[2], settings)


def test_the_floor_counts_each_token_once(scoring):
    """Against the lengths of an item's parts: no two options here begin with the same word."""
    settings = tiny(scoring)
    tokenizer = scoring.make_subject(settings).tokenizer
    items = scoring.make_items(2, scoring.QUIZ_MODEL["vocab_size"])
    length = lambda text: len(tokenizer(text).input_ids)  # noqa: E731
    question = length(items[1].question) + length("Answer:")
    options = [length(option) for option in items[1].options]
    requests = scoring.requests_of(items, scoring.Kind("", few_shot=False, letters=False), 1)
    assert len({option.split()[0] for option in items[1].options}) == 10
    assert scoring.needed(tokenizer, requests) == (
        10 * question + sum(options) - 10,
        question + sum(options) - 10,
        1 + sum(options) - 10,
    )

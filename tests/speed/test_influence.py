"""The benchmark of influence runs, and its figures are finite."""

import math
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.mark.full  # of a benchmark, not of the package
def test_every_pass_is_timed(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import influence

    model, tokenizer = influence.random_model(layers=2)
    texts = [one.text() for one in influence.make_items(2, 8000)]
    rows = influence.measure(model, tokenizer, texts, rounds=1)
    assert [row["pass"] for row in rows] == ["saliency", "gradient form", "routing-exact form"]
    assert all(math.isfinite(row["ratio"]) and row["cpu_seconds"] > 0 for row in rows)

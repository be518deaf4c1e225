"""The benchmark of identification runs, its passes agree, and its figures are finite."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def identify(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import identify

    return identify


def numbers(thing):
    for value in thing.values() if isinstance(thing, dict) else thing:
        if isinstance(value, dict | list | tuple):
            yield from numbers(value)
        elif isinstance(value, int | float):
            yield value


@pytest.mark.slow  # of a benchmark, not of the package
def test_both_passes_find_the_same(identify):
    settings = identify.Settings(published=None, items=2, rounds=1, layers=1)
    report = identify.measure(settings, memory=False)
    said = dict(report.agreement)
    assert said.pop("tokens") > 200
    assert 0.85 < said.pop("judged") < 0.95  # the rest are option letters and marks
    assert set(said.values()) == {1.0}
    assert sum(report.shares.values()) == pytest.approx(1)
    found = json.loads(json.dumps(asdict(report)))
    assert all(math.isfinite(value) and value >= 0 for value in numbers(found))
    assert f"| {report.rows[0].name} |" in identify.markdown(report)


def test_disagreement_is_seen(identify):
    """A pass that mislabels one token, misroutes another or miscounts a third does not agree."""
    settings = identify.Settings(published=None, items=2, rounds=1, layers=1)
    subject, _ = identify.make_subject(settings)
    mine, theirs = (arm.read(arm.run()) for arm in identify.make_arms(subject, settings))
    at = int(theirs.judged.argmax())
    mine.salient[at] ^= True
    mine.experts[at, 0] = mine.experts[at, 0, ::-1]
    theirs.used[0, 0] += 1
    from identify_arms import agreement

    said = agreement(mine, theirs)
    assert all(said[name] < 1 for name in ("labels", "routing", "counts", "counts_salient"))

"""The benchmark of sign flips times two tests of the same thing."""

from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


def test_both_give_the_same_p_value_but_for_their_draws(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import sign_flips

    cells = sign_flips.line(100).strip("| ").split(" | ")
    assert cells[0] == "100"
    assert all(float(seconds) >= 0 for seconds in cells[1:3])
    assert float(cells[3]) == pytest.approx(float(cells[4]), abs=0.03)

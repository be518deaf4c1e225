"""Influence foretells what raising a single expert does: the lab model, by brute force."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks/foretold_effects.py"


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("foretold_effects", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.full
def test_the_exact_form_foretells_single_experts(benchmark):
    """On the same items: the formula's error. The bars were set before this test was written."""
    rows = benchmark.foretold_effects()
    exact = [r for r in rows if (r.form, r.measured_on) == ("routing-exact", "identification")]
    assert len(exact) == 4
    assert np.mean([row.pearson for row in exact]) >= 0.9
    for row in exact:
        assert row.pearson >= 0.85
        low, high = row.slope_ci95
        assert low <= 1.15
        assert high >= 0.85

"""The audit of scores: its readers against plain ones, and that it is of the models that ship."""

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import OutcomeItem, ScoredText, all_methods
from dsmoe_eval.studies.single_effects import MASK, single_effects

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("audit", ROOT / "benchmarks/audit.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    for name in ("audit_page", "audit_readings"):
        sys.modules.pop(name, None)


def test_layers_below_a_change_are_not_computed_again_and_all_is_as_before(audit):
    engine = load_engine("lab-poly", device="cpu")
    generator = np.random.default_rng(0)
    texts = [tuple(generator.integers(3, 200, size).tolist()) for size in (7, 12, 9)]
    items = [OutcomeItem("a", (ScoredText(one, 1),), scales=(1 / (len(one) - 1),)) for one in texts]
    reading, plain = audit.TextReading(engine, items), audit.answers_reading(engine, items)
    before = reading.read()
    np.testing.assert_allclose(before, plain(), atol=1e-5)
    units = [(2, 3), (2, 11)]
    quick = single_effects(engine, MASK, units, reading.above(2), before)
    np.testing.assert_allclose(quick, single_effects(engine, MASK, units, plain, before), atol=1e-5)
    assert np.abs(quick).max() > 1e-4
    assert (reading.read() == before).all()


def test_the_kept_audit_is_of_the_models_that_ship_and_has_every_method():
    kept = json.loads((ROOT / "reports/influence/audit.json").read_text())
    assert next(iter(kept)) == "lab-poly"
    assert (
        kept["lab-poly"]["fingerprint"]
        == load_engine("lab-poly", device="cpu").identity.fingerprint
    )
    methods = {name for name, one in all_methods().items() if one.placebo_of is None}
    page = (ROOT / "reports/influence/audit.md").read_text()
    for part in kept.values():
        there = {(row["method"], row["effect"], row["items"]) for row in part["rows"]}
        missing = methods - {method for method, _, _ in there}
        wanted = product(methods - missing, ("raised", "masked"), ("same", "others"))
        assert set(wanted) <= there
        if part["model"] == "lab-poly":
            assert not missing
        elif missing:  # its effects take an hour: methods that came later are named
            assert f"Not audited here: {', '.join(sorted(missing))}." in page


@pytest.mark.full
def test_correlations_are_those_of_the_means(audit, monkeypatch, tmp_path):
    """Of frequency, with everything computed again from the counts, in plain words."""
    monkeypatch.setattr(audit, "RESAMPLES", 3)
    seen = []
    compare = audit.compare
    monkeypatch.setattr(audit, "compare", lambda *given: seen.append(given) or compare(*given))
    part = audit.audit_poly(4)
    sample, effects, same = seen[1]
    assert not same
    values = []
    for domain in part["domains"]:
        score = sample.counts.of(domain).used.ravel() / sample.counts.of(domain).tokens
        effect = effects.changes["raised"][:, effects.columns[domain]].mean(1)
        values.append(np.corrcoef(rankdata(score), rankdata(effect))[0, 1])
    (row,) = (
        one
        for one in part["rows"]
        if (one["method"], one["effect"], one["items"]) == ("frequency", "raised", "others")
    )
    assert row["spearman"]["value"] == pytest.approx(np.mean(values))
    assert [one[1] for one in row["by_domain"].values()] == pytest.approx(values)
    assert row["spearman"]["low"] <= row["spearman"]["high"]

"""The test by influence finds what is planted; the agreement of two maps against plain counting."""

import dataclasses
import itertools
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import rankdata

from dsmoe_eval.models import load_model
from dsmoe_eval.studies.documents import ComparedRouting
from dsmoe_eval.studies.existence import existence
from dsmoe_eval.studies.existence_maps import judge_maps, map_agreement

from .test_existence import EXPERTS, LAYERS, routing, t_of

QUIET = Console(quiet=True)
REPORT = Path(__file__).resolve().parents[2] / "reports/influence/existence"


def influential(excess=0.0, seed=0):
    """Routing in which raising expert 4 of the model's layer 1 helps the third domain."""
    model, generator = routing(0.4), np.random.default_rng(seed)
    influence = generator.normal(0, 1e-3, model.used.shape) * model.tokens[:, None, None]
    own = model.labels == 2
    influence[own, 0, 4] += excess * model.tokens[own]
    influence -= influence.mean(-1, keepdims=True)
    return dataclasses.replace(model, influence=influence, scored=model.tokens)


def test_an_expert_whose_influence_is_larger_on_a_domain_is_found():
    model = influential(2e-3)
    result = existence(model, {"random": [influential(seed=1)]}, permutations=999, by="influence")
    found = {row["domain"]: row["specific"] for row in result["domains"]}
    (expert,) = found["music"]
    assert (expert["layer"], expert["expert"]) == (1, 4)
    assert expert["difference"] == pytest.approx(2e-3 * 5 / 6, abs=7e-4)  # less the layer's mean
    assert expert["difference_ci95"][0] > 0
    assert (expert["lift"], expert["lift_ci95"]) == (None, None)
    assert expert["beyond"] == {"random": True}
    alike = dataclasses.replace(model, used=model.influence)
    assert expert["statistic"] == pytest.approx(t_of(alike)[2, 0, 4])
    # The same documents by counts: another expert, of another domain.
    counts = existence(model, {"random": [model]}, permutations=999)
    assert [(one["layer"], one["expert"]) for one in counts["domains"][1]["specific"]] == [(3, 2)]
    assert json.dumps(result, allow_nan=False)


def test_what_harms_a_domain_is_not_specific_to_it():
    model = influential(-2e-3)
    result = existence(model, {"random": [influential(seed=1)]}, permutations=999, by="influence")
    assert (1, 4) not in {(e["layer"], e["expert"]) for e in result["domains"][2]["specific"]}


def test_the_agreement_of_two_maps():
    model = influential(2e-3)
    about = {"model": "m", "suite": "s", "file": None}
    compared = ComparedRouting(about, model, {"random": [influential(seed=1)]})
    done = judge_maps(compared, ("counts", "influence"), "exact", 999, QUIET)
    content = done.content()
    assert (content["by"], content["influence"]["form"]) == ("both", "exact")
    assert "by" not in content["counts"]
    tables = t_of(model), t_of(dataclasses.replace(model, used=model.influence))
    for row, counts, influence in zip(done.agreement, *tables, strict=True):
        ranks = [rankdata(table.ravel()) for table in (counts, influence)]
        assert row["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
        low, high = row["spearman_ci95"]
        assert low < high
    law, music = done.agreement[1:]
    assert (law["by_counts"], law["both"], law["p_value"]) == (1, 0, 1)
    assert music["by_influence"] == 1


def chance_of(units, first, second, both):
    """The share of all pairs of sets that share at least `both`, by counting them."""
    pairs = itertools.product(
        itertools.combinations(range(units), first), itertools.combinations(range(units), second)
    )
    shared = sum(len(set(a) & set(b)) >= both for a, b in pairs)
    return shared / comb(units, first) / comb(units, second)


def test_shared_experts_are_compared_with_blind_sets():
    def rows(*experts):
        specific = [{"layer": 1, "expert": expert} for expert in experts]
        return {"domains": [{"domain": "a", "specific": specific}] * 3}

    first = map_agreement(influential(), {"counts": rows(0, 1, 2), "influence": rows(1, 2)})[0]
    units = len(LAYERS) * EXPERTS
    assert (first["both"], first["both_by_chance"]) == (2, 3 * 2 / units)
    assert first["p_value"] == pytest.approx(chance_of(units, 3, 2, 2))


def test_the_kept_report_is_of_the_lab_model_as_it_stands():
    """And says what it says without a choice made after the fact: see CONTRIBUTING."""
    kept = json.loads((REPORT / "existence.json").read_text())
    fingerprint = load_model("lab-poly", "cpu").identity.fingerprint
    for by in ("counts", "influence"):
        assert kept[by]["fingerprint"] == fingerprint
        assert (kept[by]["limit"], kept[by]["permutations"]) == (None, 9999)
    # By counts it is what `reports/existence` has, with fewer control models.
    former = json.loads((REPORT.parents[1] / "existence/existence.json").read_text())
    assert [row["by_layer"] for row in kept["counts"]["domains"]] == [
        row["by_layer"] for row in former["domains"]
    ]

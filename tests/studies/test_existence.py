"""The decision on arrays whose answer is known, and on the embedded model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dsmoe_eval.models import load_model
from dsmoe_eval.stats import benjamini_hochberg, excess_use, permutation_p_values
from dsmoe_eval.studies import existence as module
from dsmoe_eval.studies import existence_of
from dsmoe_eval.studies.documents import DocumentRouting
from dsmoe_eval.studies.existence import existence

LAYERS, EXPERTS = (1, 3), 6


def routing(excess=0.0, seed=0, documents=15):
    """Three domains; expert 2 of the model's layer 3 is used more by the second, by `excess`."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], documents)
    tokens = generator.integers(20, 60, labels.size)
    rates = np.full((labels.size, len(LAYERS), EXPERTS), 0.2)
    rates += generator.uniform(-0.1, 0.1, rates.shape)
    rates[labels == 1, 1, 2] += excess
    used = generator.binomial(tokens[:, None, None], rates)
    used[:, 0, 5] = 0
    return DocumentRouting(("math", "law", "music"), LAYERS, used, tokens, labels)


def random_routing(model, excess=0.0, seed=1):
    other = routing(excess, seed)
    return dataclasses.replace(model, used=np.minimum(other.used, model.tokens[:, None, None]))


def run(model, *random, permutations=999):
    return existence(model, dict(enumerate(random)), permutations=permutations)


def test_a_planted_expert_is_found_with_its_effect():
    model = routing(0.4)
    result = run(model, random_routing(model))
    by_name = {row["domain"]: row for row in result["domains"]}
    assert (result["hypotheses"], result["fewest_discoveries"]) == (36, 1)
    assert [(e["layer"], e["expert"]) for e in by_name["law"]["specific"]] == [(3, 2)]
    assert by_name["law"]["by_layer"] == [0, 1]
    assert not by_name["math"]["specific"]
    assert by_name["math"]["stability"] is None
    (expert,) = by_name["law"]["specific"]
    own, rest = model.labels == 1, model.labels != 1
    rates = [model.used[side, 1, 2].sum() / model.tokens[side].sum() for side in (own, rest)]
    assert (expert["rate"], expert["rest_rate"]) == pytest.approx(tuple(rates))
    assert expert["difference"] == pytest.approx(rates[0] - rates[1])
    assert expert["lift"] == pytest.approx(rates[0] / rates[1])
    low, high = expert["difference_ci95"]
    assert low < expert["difference"] < high
    assert low > 0
    assert expert["lift_ci95"][0] < expert["lift"] < expert["lift_ci95"][1]
    assert by_name["law"]["stability"] == 1
    assert by_name["law"]["documents"] == 15
    assert by_name["law"]["tokens"] == model.tokens[own].sum()


def test_the_rule_of_random_weights_is_the_largest_effect_of_any_of_them():
    model = routing(0.3)
    weak, strong = random_routing(model, 0.0), random_routing(model, 0.6, seed=2)
    alone, beside = run(model, weak), run(model, weak, strong)
    law = alone["domains"][1]
    assert (len(law["specific"]), law["exceeding"], law["exceeding_by_layer"]) == (1, 1, [0, 1])
    assert law["specific"][0]["exceeds_random"]
    law = beside["domains"][1]
    assert (len(law["specific"]), law["exceeding"], law["exceeding_by_layer"]) == (1, 0, [0, 0])
    assert law["random_specific"] == [0, 1]
    assert law["random_by_layer"] == [0, 0.5]
    largest = max(float(excess_use(r.counts()).difference[1].max()) for r in (weak, strong))
    assert law["random_largest"] == pytest.approx(largest)
    assert not law["specific"][0]["exceeds_random"]


def test_adjusted_values_are_of_the_whole_model():
    model = routing(0.1, seed=5)
    result = run(model, random_routing(model), permutations=499)
    raw = permutation_p_values(model.counts(), np.random.default_rng([0, 0]), 499)
    adjusted = benjamini_hochberg(raw)
    assert [len(row["specific"]) for row in result["domains"]] == (adjusted <= 0.05).sum(1).tolist()
    for index, row in enumerate(result["domains"]):
        for expert in row["specific"]:
            unit = LAYERS.index(expert["layer"]) * EXPERTS + expert["expert"]
            assert expert["p_value"] == raw[index, unit]
            assert expert["p_adjusted"] == adjusted[index, unit]


def test_the_result_is_plain_and_the_same_each_time():
    model = routing(0.4)
    result = run(model, random_routing(model))
    assert json.dumps(result, allow_nan=False) == json.dumps(run(model, random_routing(model)))


def test_every_model_gets_all_shuffles():
    model, done = routing(), []
    existence(model, {0: model}, permutations=250, on_block=done.append)
    assert sum(done) == 500


def test_other_documents_are_refused():
    model = routing()
    wrong = {
        "shape": dataclasses.replace(model, used=model.used[:, :1]),
        "documents": dataclasses.replace(model, tokens=model.tokens + 1),
        "domains": dataclasses.replace(model, domains=("a", "b", "c")),
    }
    for words, other in wrong.items():
        with pytest.raises(ValueError, match=words):
            run(model, other)
    with pytest.raises(ValueError, match="no random-weight model"):
        run(model)


def test_every_domain_of_the_lab_model_has_specific_experts(monkeypatch):
    """With fewer documents and one random model, for speed; the kept report has all."""
    monkeypatch.setattr(module, "RANDOM_SEEDS", (0,))
    result = existence_of(
        "lab-poly", "lab", permutations=999, limit=40, device="cpu", console=Console(quiet=True)
    )
    assert result["model"] == "lab-poly"
    for row in result["domains"]:
        assert len(row["specific"]) >= 5, row["domain"]
        assert row["stability"] > row["stability_by_chance"]


def test_the_kept_report_is_of_the_lab_model_as_it_stands():
    """And says what it says without a choice made after the fact: see CONTRIBUTING."""
    kept = json.loads(
        (Path(__file__).resolve().parents[2] / "reports/existence/existence.json").read_text()
    )
    assert kept["fingerprint"] == load_model("lab-poly", "cpu").identity.fingerprint
    assert (kept["limit"], kept["permutations"], kept["level"]) == (None, 9999, 0.05)
    assert all(row["specific"] for row in kept["domains"])

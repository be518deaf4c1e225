"""The decision on arrays whose answer is known, and on the embedded model."""

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from dsmoe_eval.experts import Document, count_routing, observe
from dsmoe_eval.models import load_model
from dsmoe_eval.stats import benjamini_hochberg, excess_use, permutation_p_values
from dsmoe_eval.studies import existence_maps
from dsmoe_eval.studies.documents import DocumentRouting
from dsmoe_eval.studies.existence import examine, existence

from ..dense import NEURONS, dense_model

LAYERS, EXPERTS = (1, 3), 6


def routing(excess=0.0, seed=0, documents=15, tokens=None):
    """Three domains; expert 2 of the model's layer 3 is used more by the second, by `excess`."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], documents)
    tokens = generator.integers(20, 60, labels.size) if tokens is None else tokens
    rates = np.full((labels.size, len(LAYERS), EXPERTS), 0.2)
    rates += generator.uniform(-0.1, 0.1, rates.shape)
    rates[labels == 1, 1, 2] += excess
    used = generator.binomial(tokens[:, None, None], rates)
    used[:, 0, 5] = 0
    return DocumentRouting(("math", "law", "music"), LAYERS, used, tokens, labels)


def random_routing(model, excess=0.0, seed=1):
    return routing(excess, seed, tokens=model.tokens)


def run(model, *random, permutations=999):
    return existence(model, {"random": random}, permutations=permutations)


def t_of(model):
    """Welch's t of the two ratio estimators, written down again, [domains, layers, experts]."""
    out = np.zeros((len(model.domains), *model.used.shape[1:]))
    for domain in range(len(out)):
        means, variances = [], []
        for side in (model.labels == domain, model.labels != domain):
            used, tokens = model.used[side], model.tokens[side]
            rate = used.sum(0) / tokens.sum()
            residual = used - rate * tokens[:, None, None]
            n = len(tokens)
            means.append(rate)
            variances.append(n * residual.var(0, ddof=1) / tokens.sum() ** 2)
        with np.errstate(invalid="ignore"):
            t = (means[0] - means[1]) / np.sqrt(variances[0] + variances[1])
        out[domain] = np.nan_to_num(t)
    return out


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


def test_beyond_a_control_is_a_larger_t_than_any_of_its_experts():
    model = routing(0.3)
    weak, strong = random_routing(model, 0.0), random_routing(model, 0.6, seed=2)
    alone, beside = run(model, weak), run(model, weak, strong)
    law, control = alone["domains"][1], alone["domains"][1]["controls"]["random"]
    assert (control["beyond"], control["beyond_by_layer"]) == (1, [0, 1])
    assert law["specific"][0]["beyond"] == {"random": True}
    assert law["specific"][0]["statistic"] == pytest.approx(t_of(model)[1, 1, 2])
    assert law["largest_statistic"] == pytest.approx(t_of(model)[1].max())
    summary = alone["controls"]["random"]
    assert (summary["discoveries"], summary["p_by_number"]) == ([0], 0.5)
    assert (summary["domains_beyond"], summary["p_by_strength"]) == (1, 1)  # 3 / (1 * (1 + 1))
    law, control = beside["domains"][1], beside["domains"][1]["controls"]["random"]
    assert (control["beyond"], control["beyond_by_layer"]) == (0, [0, 0])
    assert (control["specific"], control["by_layer"]) == ([0, 1], [0, 0.5])
    largest = max(float(excess_use(r.counts()).difference[1].max()) for r in (weak, strong))
    assert control["largest"] == pytest.approx(largest)
    largest = max(float(t_of(each)[1].max()) for each in (weak, strong))
    assert control["largest_statistic"] == pytest.approx(largest)
    assert law["specific"][0]["beyond"] == {"random": False}
    summary = beside["controls"]["random"]
    assert (summary["discoveries"], summary["p_by_number"]) == ([0, 1], pytest.approx(2 / 3))
    assert (summary["domains_beyond"], summary["p_by_strength"]) == (0, 1)


def test_a_large_excess_that_is_noise_of_few_documents_hides_nothing():
    """Half of a domain's documents use an expert for everything: a large excess with a small t."""
    model = routing(0.3)
    noise = random_routing(model)
    noise.used[15:23, 0, 5] = model.tokens[15:23]
    law = run(model, noise)["domains"][1]
    assert law["controls"]["random"]["largest"] > 1.5 * law["specific"][0]["difference"]
    assert law["specific"][0]["beyond"] == {"random": True}


def test_no_variance_at_all_is_said_without_infinities():
    model = routing()
    used = model.used.copy()
    used[:, 1, 2] = np.where(model.labels == 1, model.tokens, 0)
    perfect = dataclasses.replace(model, used=used)
    result = run(perfect, perfect)
    row = result["domains"][1]
    assert row["specific"][0]["statistic"] is None
    assert row["largest_statistic"] is row["controls"]["random"]["largest_statistic"] is None
    assert row["specific"][0]["beyond"] == {"random": False}  # equal is not larger
    assert json.dumps(result, allow_nan=False)


def test_exchangeable_models_are_beyond_each_other_at_the_nominal_rate():
    """Twelve models of one law, each beside three others: one domain in four has the largest t."""
    models = [random_routing(routing(seed=99), 0.1, seed) for seed in range(12)]
    largest = np.array([t_of(each).max((1, 2)) for each in models])
    rate, groups = 0.0, [range(start, start + 4) for start in (0, 4, 8)]
    for group in groups:
        for one in group:
            others = [models[each] for each in group if each != one]
            with_ = existence(models[one], {"random": others}, permutations=199)
            most = largest[[each for each in group if each != one]].max(0)
            for domain, row in enumerate(with_["domains"]):
                beyond = bool(row["controls"]["random"]["beyond"])
                assert beyond <= (largest[one, domain] > most[domain])
                rate += beyond / (12 * 3)
    assert rate <= 1 / 4


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
    existence(model, {"random": [model]}, permutations=250, on_block=done.append)
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
    with pytest.raises(ValueError, match="no control model"):
        run(model)
    with pytest.raises(ValueError, match="as many"):
        existence(model, {"random": [model], "shuffled": [model] * 2})


def test_every_domain_of_the_lab_model_has_specific_experts():
    """With fewer documents and one model of each control, for speed; the kept report has all."""
    maps = existence_maps(
        "lab-poly", "lab", ("counts",), permutations=999, controls=1, limit=40, device="cpu",
        console=Console(quiet=True),
    )  # fmt: skip
    result = maps.tests["counts"]
    assert result["model"] == "lab-poly"
    assert result["control_models"] == 1
    assert list(result["controls"]) == ["random", "shuffled"]
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


def test_only_the_largest_are_listed_and_all_are_counted():
    model = routing(0.4)
    whole = run(model, random_routing(model))
    few = existence(model, {"random": [random_routing(model)]}, permutations=999, most_listed=1)
    for one, other in zip(whole["domains"], few["domains"], strict=True):
        assert one["by_layer"] == other["by_layer"]
        assert len(other["specific"]) == min(1, len(one["specific"]))
        for row, same in zip(other["specific"], one["specific"], strict=False):
            assert row.keys() == same.keys()
            assert row["p_adjusted"] == same["p_adjusted"]
            assert row["lift_ci95"] == pytest.approx(same["lift_ci95"])
        assert one["stability"] == other["stability"]


@pytest.mark.full
def test_neurons_of_random_dense_models_are_found_at_the_nominal_rate():
    """Documents of one law in every domain: any discovery in a model is false, in 5 % of models."""
    generator, false, models = np.random.default_rng(0), 0, 120
    for seed in range(models):
        model = dense_model("llama", seed=seed)
        lengths = generator.integers(15, 30, 24)
        texts = [tuple(generator.integers(2, 64, length).tolist()) for length in lengths]
        documents = [
            Document("abc"[index % 3], text, (True,) * len(text), len(text))
            for index, text in enumerate(texts)
        ]
        with TemporaryDirectory() as folder:
            seen = observe(model, documents, Path(folder), saliency_model=None, sites=NEURONS)
            counts = count_routing(seen).in_phase("prompt")
            used, tokens = np.asarray(counts.used).sum(1), np.asarray(counts.tokens).sum(1)
        found = DocumentRouting(counts.domains, counts.layers, used, tokens, counts.domain)
        false += bool(examine(found, 4999, seed).specific.any())
    assert scipy.stats.binomtest(false, models, 0.05, "greater").pvalue > 0.01

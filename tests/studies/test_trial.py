"""The trial's judgement: rank agreement, chance, pooled gains; and the whole of it, small."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import count_routing, get_method
from dsmoe_eval.results.cells import read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.stages import count_experts
from dsmoe_eval.studies.trial import (
    CausalEffects,
    _trial,
    causal_effects,
    chance_agreement,
    pooled_gain,
    rank_agreements,
    run_trial,
    specific,
)
from dsmoe_eval.variants import sigmas_of
from tests.experts.conftest import EXPERTS, LAYERS, random_pass

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(2, 5))
def test_a_specific_effect_is_the_own_loss_minus_the_mean_of_the_others(seed, domains):
    plain = np.random.default_rng(seed).normal(size=(domains, 2, 3))
    got = specific(plain)
    for index in range(domains):
        others = [plain[other] for other in range(domains) if other != index]
        np.testing.assert_allclose(got[index], plain[index] - np.mean(others, axis=0))


def test_plain_effects_are_means_over_a_domains_items():
    effect = np.arange(12.0).reshape(1, 2, 6)
    effects = CausalEffects(("a", "b"), np.array([0, 1, 0, 1, 1, 1]), effect)
    np.testing.assert_allclose(effects.plain()[0], [[1.0, 7.0]])
    np.testing.assert_allclose(effects.plain(np.array([0, 0, 3]))[1], [[3.0, 9.0]])


def test_methods_that_read_right_answers_are_refused():
    job = SimpleNamespace(reads_answers=True, plan=SimpleNamespace(name="mine"))
    with pytest.raises(UserError, match="plan 'mine': a trial resamples documents"):
        _trial(job, Console(quiet=True))


def test_chance_is_that_of_random_rankings():
    exact = [  # of 5 experts in 1 domain: every ranking
        abs(spearmanr(range(5), ranks).statistic) for ranks in itertools.permutations(range(5))
    ]
    assert chance_agreement(1, 5, 0) == pytest.approx(np.quantile(exact, 0.95), abs=0.051)
    assert chance_agreement(4, 96, 0) == pytest.approx(1.96 / np.sqrt(95 * 4), rel=0.05)


def test_a_method_that_is_the_truth_agrees_fully(monkeypatch):
    monkeypatch.setattr("dsmoe_eval.studies.trial.RESAMPLES", 3)
    with random_pass(3, saliency=False) as (seen, _):
        counts = count_routing(seen)
        score = get_method("frequency").score
        truth = np.stack([score(counts, domain) for domain in seen.domains])
        effects = CausalEffects(seen.domains, np.arange(3), truth.transpose(1, 2, 0))
        (found,) = rank_agreements(counts, effects, ["frequency"], 0).values()
        assert found["agreement_plain"]["value"] == pytest.approx(1.0)
        assert truth.shape == (3, LAYERS, EXPERTS)


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=4), min_size=3))
@settings(deadline=None, max_examples=8)
def test_a_pooled_gain_is_the_mean_over_all_answers(by_question):
    found = pooled_gain(by_question, 0)
    values = [value for values in by_question for value in values]
    assert found.delta == pytest.approx(np.mean(values))
    assert found.items == len(values)
    if not np.isnan(found.ci95[0]):
        assert found.ci95[0] <= found.ci95[1]


def test_repeated_questions_widen_the_interval():
    generator = np.random.default_rng(0)
    draws = generator.choice([-1.0, 0.0, 1.0], 120)
    alone = pooled_gain([[value] for value in draws], 0)
    fourfold = pooled_gain([[value] * 4 for value in draws], 0)
    assert fourfold.ci95 == pytest.approx(alone.ci95)
    shuffled = generator.permutation(np.repeat(draws, 4)).reshape(-1, 4)
    mixed = pooled_gain(shuffled.tolist(), 0)
    assert mixed.ci95[1] - mixed.ci95[0] < 0.7 * (fourfold.ci95[1] - fourfold.ci95[0])


PLAN = """\
name: small
description: One method and its placebo.
model: lab-poly
suite: lab
variants: [base, frequency+bias, frequency+bias+matched]
targets: [math, biology]
seed: 0
margin: 0.02
significance_level: 0.05
tuning: {expert_counts: [8], strengths: {bias: [1.7183]}}
"""


@pytest.mark.slow
def test_a_small_trial_runs_whole_and_its_gains_are_those_of_the_cells(tmp_path, monkeypatch):
    """The pooled gain against a mean over the rows of the cells; the effects of every expert."""
    monkeypatch.setattr("dsmoe_eval.studies.trial.RESAMPLES", 3)
    (tmp_path / "small.yaml").write_text(PLAN)
    options = RunOptions(limit=12, device="cpu")
    job = prepare(str(tmp_path / "small.yaml"), tmp_path / "run", options)
    result = run_trial(job, Console(quiet=True))
    written = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert np.shape(result["specific"]) == (len(result["domains"]), 4, 24)
    assert np.shape(result["raised_specific"]) == (len(result["domains"]), 4, 24)
    assert result["raised_specific"] != result["specific"]
    # A trial that only masked is measured again; one that did both is read.
    kept = job.folder.read(tmp_path / "run" / "causal.npz")
    sigmas = sigmas_of(count_experts(job, lambda _: None))
    masked, _ = causal_effects(job, sigmas, lambda _: None)
    assert job.folder.read(tmp_path / "run" / "causal.npz") == kept
    assert specific(masked.plain()).tolist() == result["specific"]
    (row,) = result["methods"]
    assert {"raised_agreement_specific", "raised_agreement_plain"} <= set(row)
    finished, changes = read_finished(tmp_path / "run"), []
    for target in ("math", "biology"):
        task = f"lab_{target}_unnamed"
        after = finished.arms["frequency+bias", target].cells[task]
        (before,) = [base.cell for base in finished.result.base if base.task == task]
        scores = [read_samples(job.folder, cell)["score"].to_numpy() for cell in (before, after)]
        changes.extend(scores[1] - scores[0])
        assert row["settings"][target]["expert_count"] == 8
    assert row["gain"]["delta"] == pytest.approx(np.mean(changes))
    assert row["gain"]["items"] == len(changes) == 24

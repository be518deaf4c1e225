"""The trial's judgement: rank agreement, chance, pooled gains; and the whole of it, small."""

import json
import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_plan
from dsmoe_eval.results.cells import read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs.arms import plan_run
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.stages import count_experts
from dsmoe_eval.studies.agreement import specific
from dsmoe_eval.studies.causal_effects import causal_effects
from dsmoe_eval.studies.trial import (
    check_trial,
    pooled_gain,
    run_trial,
)


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
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 3)
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
    counts = count_experts(job, lambda _: None)
    masked, _ = causal_effects(job, counts, ["frequency"], None, lambda _: None).effects
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


def planned(folder, *variants, **changes):
    path = folder / "mine.yaml"
    path.write_text(
        yaml.safe_dump(yaml.safe_load(PLAN) | {"variants": ["base", *variants]} | changes)
    )
    return plan_run(*load_plan(str(path)))


OF_RESIDUAL = {"tuning": {"residual": {"depths": [0.5], "strengths": [1.0]}}}


@pytest.mark.parametrize(
    ("variants", "changes", "words"),
    [
        (["router-lens+bias", "router-lens+bias+matched"], {}, "tunes routers on right answers"),
        (["learned-profile"], {"learned": {}}, "a learned profile scores no experts"),
        (["residual", "residual+matched"], OF_RESIDUAL, "a trial compares METHOD"),
        (["frequency+bias"], {}, "add the variant frequency[+]bias[+]matched"),
    ],
)
def test_arms_that_a_trial_cannot_judge_are_refused_by_name(tmp_path, variants, changes, words):
    job = planned(tmp_path, *variants, controls="none", **changes)
    with pytest.raises(UserError, match=f"'small', variant '{re.escape(variants[0])}': .*{words}"):
        check_trial(job)


def test_methods_of_influence_are_taken(tmp_path):
    arms = ("influence+bias", "influence+bias+matched", "influence-net+bias")
    arms = (*arms, "influence-net+bias+matched")
    check_trial(planned(tmp_path, *arms, controls="none"))
    with pytest.raises(UserError, match="not loaded any more when vllm answers"):
        check_trial(planned(tmp_path, *arms, controls="none", engine="vllm"))


@pytest.mark.full
def test_the_trial_judges_influence_by_the_scores_of_identification(tmp_path, monkeypatch):
    """Its agreement is the correlation of the run's kept scores with the kept effects."""
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 20)
    methods = ["influence", "influence-net", "frequency"]
    arms = [f"{name}+bias{end}" for name in methods for end in ("", "+matched")]
    text = PLAN.replace("[base, frequency+bias, frequency+bias+matched]", str(["base", *arms]))
    (tmp_path / "small.yaml").write_text(text)
    job = prepare(
        str(tmp_path / "small.yaml"), tmp_path / "run", RunOptions(limit=12, device="cpu")
    )
    result = run_trial(job, Console(quiet=True))
    scores = json.loads((tmp_path / "run" / "identification.json").read_text())["scores"]
    for row in result["methods"]:
        for way, effects in (("", result["specific"]), ("raised_", result["raised_specific"])):
            each = [
                spearmanr(np.ravel(scores[row["method"]][domain]), np.ravel(effects[at])).statistic
                for at, domain in enumerate(result["domains"])
            ]
            found = row[f"{way}agreement_specific"]
            assert found["value"] == pytest.approx(np.mean(each))
            assert found["ci95"][0] < found["ci95"][1]

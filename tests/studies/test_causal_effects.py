"""Groups of a ranking; and a trial of neurons, by groups and one by one, against scaled columns."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports import render_trial
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.studies import run_trial
from dsmoe_eval.studies.causal_effects import answered_tasks, rank_groups

from ..dense import LAYERS, WIDTH, down, saved_dense

UNITS = LAYERS * WIDTH


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_groups_are_parts_of_the_ranking_from_its_best_to_its_last(size, groups, seed):
    scores = np.random.default_rng(seed).normal(size=100)
    found = rank_groups(scores, size, groups)
    count = min(groups, 100 // size)
    assert found.shape == (count, size)
    assert len(set(found.ravel().tolist())) == count * size
    ranking = sorted(range(100), key=lambda unit: -scores[unit])
    assert found[0].tolist() == ranking[:size]
    if count > 1:
        assert found[-1].tolist() == ranking[-size:]
    places = [[ranking.index(unit) for unit in group] for group in found.tolist()]
    assert all(part == list(range(part[0], part[0] + size)) for part in places)
    starts = [part[0] for part in places]
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def dense_job(folder, count=6):
    saved_dense("llama", folder / "model")
    methods = ("frequency+amplify", "lape+amplify", "influence+amplify")
    arms = [f"{name}{end}" for name in methods for end in ("", "+matched")]
    plan = {
        "name": "dense", "description": "small", "model": str(folder / "model"),
        "sites": "neurons", "suite": "lab", "targets": ["math", "biology"], "controls": "none",
        "variants": ["base", *arms], "margin": 0.02,
        "tuning": {"expert_counts": [count], "strengths": {"amplify": [0.5]}},
    }  # fmt: skip
    (folder / "dense.yaml").write_text(yaml.safe_dump(plan))
    return prepare(str(folder / "dense.yaml"), folder / "run", RunOptions(limit=6, device="cpu"))


def fall(job, groups):
    """The fall of each gold answer's log-probability with columns zeroed, [groups, items]."""
    model = job.engine.reader().model
    pairs = [pair for task in answered_tasks(job) for pair in task.answers()]

    def likelihoods():
        found = []
        for prompt, answer in pairs:
            ids = job.engine.tokenizer(prompt + answer)["input_ids"]
            start = len(job.engine.tokenizer(prompt)["input_ids"])
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            found.append(sum(logits[at - 1, ids[at]].item() for at in range(start, len(ids))))
        return np.array(found)

    before, rows = likelihoods(), []
    for group in groups:
        kept = {layer: down(model, "llama", layer).weight.clone() for layer in range(LAYERS)}
        for unit in group:
            down(model, "llama", unit // WIDTH).weight[:, unit % WIDTH] = 0
        rows.append(before - likelihoods())
        for layer, weight in kept.items():
            down(model, "llama", layer).weight.copy_(weight)
    return np.array(rows)


@pytest.mark.full
@pytest.mark.parametrize("single", [False, True])
@torch.no_grad()
def test_a_trial_of_neurons(tmp_path, monkeypatch, single):
    """Effects against zeroed columns; agreement against scores that the run kept."""
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 4)
    if not single:
        monkeypatch.setattr("dsmoe_eval.studies.causal_effects.MOST_SINGLE", 10)
        monkeypatch.setattr("dsmoe_eval.studies.causal_effects.GROUPS", 5)
    job = dense_job(tmp_path)
    with torch.enable_grad():
        result = run_trial(job, Console(quiet=True))
    scores = json.loads((tmp_path / "run/identification.json").read_text())["scores"]
    effects = np.load(io.BytesIO(job.folder.read(tmp_path / "run/causal.npz")))
    assert (result["units"], result["experts"]) == ("neurons", UNITS)
    assert [row["method"] for row in result["methods"]] == ["frequency", "lape", "influence"]
    for row in result["methods"]:
        each = []
        for at, domain in enumerate(result["domains"]):
            flat = np.ravel(scores[row["method"]][domain])
            if single:
                groups, measured = np.arange(UNITS)[:, None], np.array(result["specific"][at])
                loss = effects["loss"].reshape(UNITS, -1)
            else:
                groups = rank_groups(flat, 6, 5)
                measured = result["groups"]["methods"][row["method"]][at]["specific"]
                loss = effects[f"loss.{row['method']}"][at]
            each.append(spearmanr(flat[groups].mean(-1), np.ravel(measured)).statistic)
            if at == 0:
                np.testing.assert_allclose(loss[:5], fall(job, groups[:5]), atol=1e-4)
        assert row["agreement_specific"]["value"] == pytest.approx(np.nan_to_num(each).mean())
    text = render_trial(tmp_path / "run", tmp_path / "page").read_text()
    assert ("too many to mask one by one" in text) != single
    assert "steer by `amplify`" in text
    assert "random neurons" in text
    assert " expert" not in text
    job.close()


@pytest.mark.full
def test_too_many_neurons_for_groups_are_refused_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.studies.causal_effects.MOST_SINGLE", 10)
    job = dense_job(tmp_path, 40)
    with pytest.raises(UserError, match="40 of 144 leave fewer than 4 groups"):
        run_trial(job, Console(quiet=True))
    assert not list((tmp_path / "run").glob("cells/*"))
    job.close()

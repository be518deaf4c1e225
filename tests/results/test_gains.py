"""Gains of a run item by item, against its samples read by pandas."""

import shutil

import pandas as pd
import pytest

from dsmoe_eval.results import read_finished
from dsmoe_eval.results.gains import difference_of_gains, gain_items, pair_gains, primary_claim

from ..leaderboards.conftest import SMALL
from ..recorded import record

KEY = ("contrast", "math")
COMMON = SMALL | {"variants": ("base", "contrast"), "texts": True}


@pytest.fixture(scope="module")
def runs(make_run):
    """One plan on two models."""
    return [read_finished(make_run(**COMMON, fingerprint=letter * 32)) for letter in "ab"]


def cells_of(run, task):
    base = next(row.cell for row in run.result.base if row.task == task)
    read = [
        pd.read_parquet(run.folder.cell(cell) / "samples.parquet").set_index("item")
        for cell in (base, run.arms[KEY].cells[task])
    ]
    return [rows.sort_index() for rows in read]


@pytest.mark.parametrize("outcome", ["score", "gold_logprob"])
def test_both_values_of_each_item_of_the_target(runs, outcome):
    found = gain_items(runs[0], KEY, "target", outcome).set_index("item").sort_index()
    base, arm = cells_of(runs[0], "math_task")
    assert list(found["a"]) == list(base[outcome])
    assert list(found["b"]) == list(arm[outcome])
    assert list(found["cluster"]) == list(base["cluster"])


def test_the_non_targets_are_all_other_tasks_with_the_outcome(runs):
    scored, likely = (
        gain_items(runs[0], KEY, "non_targets", name) for name in ("score", "gold_logprob")
    )
    assert set(scored["task"]) == {"law_task", "poetry_task"}
    assert set(likely["task"]) == {"law_task"}  # poetry is generated


def test_gain_against_gain_of_two_runs(runs):
    for outcome in ("score", "gold_logprob"):
        old, new = (gain_items(run, KEY, "target", outcome) for run in runs)
        found = difference_of_gains(pair_gains(new, old))
        gains = [
            float((arm[outcome] - base[outcome]).mean())
            for base, arm in (cells_of(run, "math_task") for run in runs)
        ]
        assert (found.score_a, found.score_b) == pytest.approx(gains)
        assert found.delta == pytest.approx(gains[1] - gains[0])
        assert found.n == 120


def test_other_items_are_not_paired(runs):
    items = gain_items(runs[0], KEY, "target")
    assert pair_gains(items, items.iloc[1:]) is None
    assert pair_gains(items, items.assign(item=items["item"] + "x")) is None


def test_missing_samples_are_none(make_run, tmp_path):
    root = shutil.copytree(make_run(**COMMON, fingerprint="a" * 32), tmp_path / "run")
    cell = read_finished(root).arms[KEY].cells["math_task"]
    (root / "cells" / cell / "samples.parquet").unlink()
    record(root)
    assert gain_items(read_finished(root), KEY, "target") is None
    alone = read_finished(root / "comparisons.json")
    assert gain_items(alone, KEY, "target") is None


def test_the_claim_is_that_of_the_primary_outcome(make_run, runs):
    arm = runs[0].arms[KEY]
    assert primary_claim(runs[0], KEY) == arm.target_result.claim
    other = read_finished(make_run(**COMMON, outcome="gold_logprob"))
    assert primary_claim(other, KEY) == other.arms[KEY].outcome("gold_logprob").target.claim
    assert "nats" in primary_claim(other, KEY).words

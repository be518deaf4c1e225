"""What changed since an earlier run: item by item where both have the items, else by intervals."""

import math

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.cards import Policy
from dsmoe_eval.errors import UserError
from dsmoe_eval.gates import changes_between, changes_since, decide
from dsmoe_eval.gates.baseline import KEPT
from dsmoe_eval.gates.readings import Claims, MissingFigureError
from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.finished import as_finished
from dsmoe_eval.results.gains import (
    difference_of_gains,
    gain_changes,
    gain_items,
    pair_gains,
)
from dsmoe_eval.stats import mcnemar_midp, tango_interval
from dsmoe_eval.stats.paired import PairedCounts

from ..leaderboards.conftest import SMALL
from ..recorded import record

KEY = ("contrast", "math")
ITEMS = 60


def write_cell(folder, cell, scores, items=None):
    path = folder.cell(cell)
    path.mkdir(parents=True)
    names = items or [f"i{number}" for number in range(len(scores))]
    rows = {"item": names, "cluster": names, "score": np.asarray(scores, dtype=float)}
    pd.DataFrame(rows).to_parquet(path / "samples.parquet")


@pytest.fixture
def run_of(make_data, tmp_path):
    """A run with samples of contrast on math and of base; the figures in its file are the same."""
    made = iter(range(99))

    def make(base, steered, items=None, on_disk=True, **figures):
        folder = RunFolder(tmp_path / str(next(made)))
        data = make_data()
        for cell, scores in (("a" * 16, base), ("b" * 16, steered)):
            write_cell(folder, cell, scores, items)
        record(folder.root)
        next(row for row in data["base"] if row["task"] == "math_task")["cell"] = "a" * 16
        arm = next(a for a in data["arms"] if (a["variant"], a["target"]) == KEY)
        arm["cells"]["math_task"] = "b" * 16
        arm["target_result"] |= figures
        return as_finished(data, "run", folder if on_disk else None)

    return make


def gain(now, before):
    return changes_since(now, before).change("target_gain", KEY)


@pytest.fixture
def scores():
    """Base, the arm before, the arm now."""
    draw = np.random.default_rng(3)
    return [draw.random(ITEMS) < share for share in (0.4, 0.7, 0.5)]


def test_the_same_answers_have_not_changed(run_of, scores):
    found = gain(run_of(*scores[:2]), run_of(*scores[:2]))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.words == "item by item: every score is the same"


def test_under_the_same_base_the_arms_are_compared_as_they_are(run_of, scores):
    base, then, now = scores
    found = gain(run_of(base, now), run_of(base, then))
    gained, lost = int((now & ~then).sum()), int((then & ~now).sum())
    counts = PairedCounts(ITEMS, int(then.sum()), gained, lost)
    assert found.value == pytest.approx((gained - lost) / ITEMS)
    assert (found.low, found.high) == pytest.approx(tango_interval(counts))
    assert found.words == f"item by item: mid-p McNemar, p = {mcnemar_midp(gained, lost):.4f}"


def test_under_another_base_the_gains_are_compared(run_of, scores):
    base, then, now = scores
    other = base.copy()
    other[:7] = ~other[:7]
    found = gain(run_of(other, now), run_of(base, then))
    differences = (now.astype(int) - other) - (then.astype(int) - base)
    assert found.value == pytest.approx(differences.mean())
    reach = 2 * differences.std(ddof=1) / math.sqrt(ITEMS)
    assert found.value - found.low == pytest.approx(reach, rel=0.15)
    assert found.high - found.value == pytest.approx(reach, rel=0.15)
    assert "paired t" in found.words


@pytest.mark.parametrize("why", ["samples are missing", "the items are not the same"])
def test_without_common_items_the_intervals_must_do(run_of, scores, why):
    items, alone = [f"x{n}" for n in range(ITEMS)], why == "samples are missing"
    figures = {"score_b": 0.8, "ci95": [0.27, 0.33]}
    now = run_of(*scores[:2])
    before = run_of(*scores[:2], items=items, on_disk=not alone, **figures)
    found = gain(now, before)
    # 0.2 with a reach of 0.04, less 0.3 with one of 0.03: Zou and Donner give 0.05.
    assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.15, -0.05))
    assert found.words == f"by intervals: {why}"


def test_clusters_count_once(run_of, scores):
    """With each item four times under one cluster, nothing is known better."""
    base, then, now = scores
    runs = [run_of(base, arm) for arm in (now, then)]
    alone = gain(*runs)
    for run in runs:
        for cell in ("a" * 16, "b" * 16):
            path = run.folder.cell(cell) / "samples.parquet"
            rows = pd.concat([pd.read_parquet(path).assign(item=lambda t, n=n: t["item"] + f"-{n}")
                              for n in range(4)])  # fmt: skip
            rows.to_parquet(path)
        record(run.folder.root)
    four = gain(*runs)
    assert four.value == pytest.approx(alone.value)
    assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_another_model_or_suite_is_no_baseline(make_data):
    run = as_finished(make_data(), "run")
    for change, words in (
        ({"fingerprint": "e" * 12}, "another model"),
        ({"suite": "t"}, "another suite"),
    ):
        other = make_data()
        other["run"] |= change
        with pytest.raises(UserError, match=words):
            changes_since(run, as_finished(other, "b"))


def test_a_change_that_cannot_be_told_is_missing_with_its_reason(run_of, scores):
    base, then, now = scores
    runs = run_of(base, now), run_of(base, then)
    for run in runs:
        for path in run.folder.root.glob("cells/*/samples.parquet"):
            pd.read_parquet(path).assign(cluster="the only one").to_parquet(path)
        record(run.folder.root)
    baseline = changes_since(*runs)
    with pytest.raises(MissingFigureError, match="the items are one cluster"):
        baseline.change("target_gain", KEY)
    with pytest.raises(MissingFigureError, match="the baseline has no arm rice on math"):
        baseline.change("target_gain", ("rice", "math"))


def kept(now, before, metric="gain_difference", key=KEY):
    return changes_between(now, before).change(metric, key)


def test_the_gain_of_an_arm_that_worked_is_compared_across_models(run_of, scores, make_data):
    base, then, now = scores
    other = base.copy()
    other[:7] = ~other[:7]
    runs = run_of(other, now), run_of(base, then)
    assert runs[1].arms[KEY].target_result.claim.verdict == "improves"
    assert kept(*runs) == gain(*runs)
    said = runs[0].arms[KEY].target_result.claim
    with pytest.raises(MissingFigureError, match="lack samples of the same items"):
        kept(*runs, "gain_not_lost")  # of the same arm on law, which is in the same family
    assert kept(*runs, "still_improves") == Claims(((said.verdict, said.words),))


def test_a_gain_is_lost_if_it_fell_significantly(make_run):
    common = SMALL | {"variants": ("base", "contrast", "sft-lora")}
    before = read_finished(make_run(**common, fingerprint="a" * 32))
    less = {"contrast": (0.02, 0.02), "sft-lora": (0.25, 0.05)}
    now = read_finished(make_run(**common, fingerprint="b" * 32, target=less))
    lost, same = (
        kept(now, before, "gain_not_lost", (name, "math")) for name in ("contrast", "sft-lora")
    )
    assert (lost.passed, same.passed) == (False, True)
    sides = [gain_items(run, KEY, "target") for run in (now, before)]
    p = 2 * difference_of_gains(pair_gains(*sides)).p_value  # the smaller of two, by Holm
    assert lost.words == f"the gain changed by -0.1833, p = {p:.4f} by Holm"
    change = gain_changes(now, before, "target", "score")[KEY]
    assert not change.is_lost(0.05, margin=0.5)  # which no item of the interval reaches
    assert not change.is_lost(p / 2, margin=0.02)


def test_an_arm_that_did_not_work_has_nothing_to_lose(run_of, scores):
    runs = [run_of(*scores[:2]) for _ in range(2)]
    for metric in KEPT:
        found = kept(*runs, metric, ("random", "math"))
        assert found.passed
        assert "did not improve its target in the baseline" in found.words


def test_where_no_arm_worked_nothing_is_decided(make_data):
    """It is no pass: a policy about what was kept is undecided."""
    data = make_data()
    for arm in data["arms"]:
        arm["target_result"] |= {"p_adjusted": 1.0}
    before, now = as_finished(data, "old"), as_finished(make_data(), "new")
    for metric in KEPT:
        assert kept(now, before, metric).said[0][0] == "inconclusive"
    bound = {
        "gain_difference": {"at_least": -1}, "still_improves": {"one_of": ["improves"]},
        "gain_not_lost": {},
    }  # fmt: skip
    rules = [
        {"name": metric, "tier": "critical", "metric": metric, "against": "baseline", **keys}
        for metric, keys in bound.items()
    ]
    valid = {"name": "valid", "tier": "critical", "metric": "leaked_items", "at_most": 0}
    wanted = Policy.model_validate({"name": "p", "description": "d", "rules": [valid, *rules]})
    assert decide(now, wanted, changes_between(now, before)).outcome == "inconclusive"


def test_other_primary_outcomes_cannot_be_compared(make_data):
    data = make_data()
    data["outcome"] = "gold_logprob"
    before, now = as_finished(data, "old"), as_finished(make_data(), "new")
    with pytest.raises(MissingFigureError, match="the primary outcome is score, that of the base"):
        kept(now, before)


def test_the_gain_by_another_primary_outcome(make_run):
    """Item by item from the samples, in nats."""
    common = SMALL | {"texts": True, "outcome": "gold_logprob", "variants": ("base", "contrast")}
    before, now = (
        read_finished(make_run(**common, fingerprint=letter * 32)) for letter in "ab"
    )  # fmt: skip
    items = [gain_items(run, KEY, "target", "gold_logprob") for run in (now, before)]
    expected = difference_of_gains(pair_gains(*items))
    found = kept(now, before)
    assert (found.value, found.low, found.high) == (expected.delta, *expected.ci95)
    assert before.arms[KEY].outcome("gold_logprob").target.claim.verdict == "improves"

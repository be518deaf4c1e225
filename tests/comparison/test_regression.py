"""A plan on two models: what was planted is found, and runs that are not alike are refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from dsmoe_eval.cards import Plan
from dsmoe_eval.comparison.regression import check_run_of, compare_checkpoints
from dsmoe_eval.errors import UserError
from dsmoe_eval.results import read_finished
from dsmoe_eval.runs.overlaps import shared_experts
from dsmoe_eval.stats import compare_gains, holm
from dsmoe_eval.steering import ChosenExpert, Intervention, ModelIdentity, Profile, Source

from ..leaderboards.conftest import SMALL
from ..recorded import record

VARIANTS = ("base", "sham", "contrast", "random", "sft-lora")
OLD = SMALL | {"items": 200, "variants": VARIANTS}
LESS = {"contrast": (0.02, 0.02), "random": (0.02, 0.03), "sft-lora": (0.25, 0.05)}
LIKELY = {"outcome": "gold_logprob", "texts": True, "variants": ("base", "contrast")}
NEW = OLD | {"fingerprint": "cd34" * 16, "model": "lab/moe-7b-2"}
LAYERS, EXPERTS = (0, 1), 8


@pytest.fixture(scope="module")
def old(make_run):
    return read_finished(make_run(**OLD))


@pytest.fixture(scope="module")
def new(make_run):
    """Contrast lost what it gained, fine-tuning did not."""
    return read_finished(make_run(**NEW, target=LESS))


@pytest.fixture
def changed(new, tmp_path):
    """A copy of the new run in which something was changed; its manifest is in order."""

    def make(change):
        root = shutil.copytree(new.folder.root, tmp_path / "changed")
        change(root)
        return read_finished(record(root))

    return make


def profile(*pairs):
    model = ModelIdentity(
        name="m", fingerprint="0" * 12, layers=LAYERS, experts=EXPERTS, routers="r",
    )  # fmt: skip
    return Profile(
        model=model, method="dsmoe", intervention=Intervention(kind="bias", strength=1.0),
        experts=tuple(ChosenExpert(layer=a, expert=b, score=1.0) for a, b in pairs),
        source=Source(suite="s", domain="math", split="train", items=()),
    )  # fmt: skip


def with_profile(run, root, content):
    """A copy of a run whose arm contrast has this profile's file."""
    shutil.copytree(run.folder.root, root)
    folder = read_finished(root).folder
    name = run.arms["contrast", "math"].profile
    folder.write(folder.profile("contrast", "math", name), content.to_json().encode())
    return read_finished(root)


@pytest.fixture(scope="module")
def steered(old, new, tmp_path_factory):
    root = tmp_path_factory.mktemp("steered")
    return (
        with_profile(old, root / "old", profile((0, 1), (0, 2), (1, 3))),
        with_profile(new, root / "new", profile((0, 1), (1, 3), (1, 4))),
    )


@pytest.fixture(scope="module")
def found(steered):
    return compare_checkpoints(*steered)


def test_a_lost_gain_is_found_and_a_kept_one_is_not_called_lost(found):
    assert [(arm.variant, arm.target) for arm in found.arms] == [
        ("contrast", "math"), ("sft-lora", "math"),
    ]  # fmt: skip
    contrast, tuned = found.arms
    assert (contrast.improved_old, contrast.improved_new) == (True, False)
    assert contrast.gain.verdict == "harms"
    assert contrast.gain.difference == pytest.approx(-0.18)
    assert contrast.gain.claim.startswith("harms by 18.0 points (-18.0, 95 % interval")
    assert (tuned.improved_old, tuned.improved_new) == (True, True)
    assert tuned.gain.verdict == "inconclusive"
    assert tuned.gain.difference == pytest.approx(0)


def sides(run, variant, task, outcome):
    base = next(row.cell for row in run.result.base if row.task == task)
    cells = base, run.arms[variant, "math"].cells[task]
    read = [pd.read_parquet(run.folder.cell(cell) / "samples.parquet") for cell in cells]
    return [rows.sort_values("item")[outcome].to_numpy() for rows in read]


def test_the_figures_are_those_of_the_samples(steered, found):
    expected = []
    for variant in ("contrast", "sft-lora"):
        old, new = (sides(run, variant, "math_task", "score") for run in steered)
        expected.append(compare_gains(*old, *new))
    adjusted = holm([one.p_value for one in expected])
    for arm, one, p in zip(found.arms, expected, adjusted, strict=True):
        assert (arm.gain.old_gain, arm.gain.new_gain) == (one.score_a, one.score_b)
        assert (arm.gain.ci95, arm.gain.p_value, arm.gain.test) == (one.ci95, one.p_value, one.test)
        assert arm.gain.p_adjusted == pytest.approx(p)


def test_elsewhere_is_the_change_on_all_non_targets(steered, found):
    change = []
    for run in steered:
        parts = [sides(run, "contrast", f"{name}_task", "score") for name in ("law", "poetry")]
        change.append(np.concatenate([arm - base for base, arm in parts]).mean())
    elsewhere = found.arms[0].elsewhere
    assert elsewhere.n == 400
    assert elsewhere.difference == pytest.approx(change[1] - change[0])


def test_the_primary_outcome_is_that_of_the_plan(make_run, tmp_path):
    choice = profile((0, 1))
    old, new = (
        with_profile(read_finished(make_run(**(spec | LIKELY))), root, choice)
        for spec, root in ((OLD, tmp_path / "a"), (NEW, tmp_path / "b"))
    )
    found = compare_checkpoints(old, new)
    both = [sides(run, "contrast", "math_task", "gold_logprob") for run in (old, new)]
    expected = compare_gains(*both[0], *both[1])
    assert (found.outcome, found.margin) == ("gold_logprob", 0.05)
    assert found.arms[0].gain.ci95 == expected.ci95
    assert "nats" in found.arms[0].gain.claim


def test_shared_experts_with_their_chance(found):
    experts = found.arms[0].experts
    chosen = [profile(*pairs).experts
              for pairs in (((0, 1), (0, 2), (1, 3)), ((0, 1), (1, 3), (1, 4)))]  # fmt: skip
    assert (experts.jaccard, experts.by_chance) == shared_experts(*chosen, EXPERTS)
    assert (experts.old, experts.new, experts.jaccard) == (3, 3, 2 / 4)
    assert found.arms[1].experts is None  # fine-tuned


def test_what_is_not_known_or_differs_beside_the_model_is_noted(steered, found):
    assert found.routing is None
    assert any("agreement of routing is not known" in note for note in found.notes)
    again = compare_checkpoints(steered[0], steered[0])
    assert "both models have the same weights" in again.notes
    assert [arm.gain.difference for arm in again.arms] == [0, 0]
    assert found.old.root_hash == steered[0].folder.root_hash


def test_another_version_of_a_package_is_noted(steered, changed):
    def edit(root):
        put(root, "comparisons.json", ("run", "versions"), {"dsmoe-eval": "0.2.0"})
        before = steered[1].folder
        file = before.profile("contrast", "math", steered[1].arms["contrast", "math"].profile)
        (root / "profiles").mkdir()
        shutil.copy(file, root / "profiles")

    notes = compare_checkpoints(steered[0], changed(edit)).notes
    assert "the runs differ in version of dsmoe-eval (0.1.0, and 0.2.0)" in notes


def put(root, name, path, value):
    """Change a value in a JSON file of a run by its path."""
    data = json.loads((root / name).read_text())
    *steps, last = path
    inner = data
    for step in steps:
        inner = inner[step]
    inner[last] = value
    (root / name).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("run.json", ("plan", "seed"), 1, r"differ in seed \(0, and 1\); run both with the same"),
        ("run.json", ("plan", "margin"), 0.03, r"margin \(0.02, and 0.03\)"),
        ("run.json", ("plan", "suite"), "others", r"suite \(subjects, and others\)"),
        ("run.json", ("plan", "outcome"), "gold_logprob", r"outcome \(score, and gold_logprob\)"),
        ("run.json", ("own_variants",), [{"name": "mine"}], "differ in own variants"),
        ("comparisons.json", ("run", "limit"), 7, r"limit \(None, and 7\)"),
        ("comparisons.json", ("base", 1, "version"), "4" * 16,
         "differ in task law_task .*its items or scoring changed"),
    ],
)  # fmt: skip
def test_runs_that_are_not_alike_are_refused(old, changed, name, path, value, words):
    other = changed(lambda root: put(root, name, path, value))
    with pytest.raises(UserError, match=words) as error:
        compare_checkpoints(old, other)
    assert old.name in str(error.value)


def test_other_items_under_one_version_are_refused(old, new, changed):
    cell = new.arms["contrast", "math"].cells["math_task"]

    def edit(root):
        path = root / "cells" / cell / "samples.parquet"
        rows = pd.read_parquet(path)
        rows.assign(item=rows["item"].str[::-1]).to_parquet(path)

    with pytest.raises(UserError, match="do not have the score of the same items; run both"):
        compare_checkpoints(old, changed(edit))


def test_without_arms_there_is_no_comparison(make_run):
    sham = read_finished(make_run(**(OLD | {"variants": ("base", "sham"), "items": 20})))
    with pytest.raises(UserError, match="has no arm but controls"):
        compare_checkpoints(sham, sham)


def test_a_result_without_its_run_is_refused(old, tmp_path):
    shutil.copy(old.folder.root / "comparisons.json", tmp_path)
    with pytest.raises(UserError, match="has no cells, so items cannot be paired; give a run's"):
        compare_checkpoints(read_finished(tmp_path), old)


def test_a_run_is_checked_against_a_plan_before_another_is_made(old):
    plan = Plan.model_validate(yaml.safe_load(old.folder.plan.read_text()))
    check_run_of(old, plan.of("another model"), None)
    for other, limit, words in (
        (plan.model_copy(update={"seed": 5}), None, r"seed \(0, and 5\)"),
        (plan, 3, r"limit \(None, and 3\)"),
    ):
        with pytest.raises(UserError, match=words):
            check_run_of(old, other, limit)

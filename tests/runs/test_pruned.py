"""A run with pruned arms: kept as the plan says, not tuned, each beside random experts."""

import io

import numpy as np
import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import share_removed
from dsmoe_eval.reports.run_settings import pruned
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs import run
from dsmoe_eval.steering import Profile

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def finished(one_split_plan, tmp_path_factory):
    plan = one_split_plan(
        variants=["base", "reap+prune-12"], controls="full", placebo_draws=2, tuning=None,
        allow_leakage=True,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("run") / "out"
    return read_finished(run(plan, out, limit=4, device="cpu", console=QUIET).root)


@pytest.mark.full
def test_arms_controls_and_settings(finished):
    arms = {variant: arm for (variant, _), arm in finished.arms.items()}
    names = ["", "+matched", "+matched-2", "+wrong", "+sham"]
    assert list(arms) == [f"reap+prune-12{ending}" for ending in names]
    for name, arm in arms.items():
        sham = name.endswith("sham")
        assert arm.settings.kept_per_layer == (24 if sham else 12)
        assert arm.settings.removed == (0 if sham else 0.5)
        assert arm.probe.null_max_difference == 0
        assert (arm.information.answers, arm.information.settings) == (0, 0)
        assert arm.information.texts > 0
    kept = [arms[f"reap+prune-12{ending}"].settings.exposure_kept for ending in names]
    assert kept[0] > max(kept[1:3])  # what a method keeps is used more than random experts are
    assert kept[4] == 1
    assert arms["reap+prune-12+sham"].equal_to_base
    assert arms["reap+prune-12"].over_placebo.n == arms["reap+prune-12"].target_result.n


@pytest.mark.full
def test_no_token_selects_a_removed_expert(finished):
    for path in finished.folder.root.glob("profiles/*.json"):
        profile = Profile.load(path)
        if profile.is_null:
            continue
        variant = path.stem.split("--")[1]
        routing = finished.folder.read_json(finished.folder.routing(variant, "math"))
        assert share_removed(profile, np.array(routing["steered"])) == 0.5
        assert share_removed(profile, np.array(routing["base"])) < 0.5


@pytest.mark.full
def test_the_report_has_a_row_per_pruned_arm(finished):
    rows = [[cell.text for cell in row.cells[:4]] for row in pruned(finished.result).rows]
    assert rows[0] == ["reap+prune-12", "math", "12", "50.0%"]
    assert len(rows) == 5


def test_a_number_that_cannot_be_kept_is_refused(one_split_plan, tmp_path):
    plan = one_split_plan(variants=["base", "frequency+prune-24"], tuning=None, allow_leakage=True)
    with pytest.raises(UserError, match=r"'frequency\+prune-24', target 'math': of 24 experts"):
        run(plan, tmp_path / "out", limit=4, device="cpu", console=QUIET)

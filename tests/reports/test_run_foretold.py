"""Foretold and measured: which intervals hold, the slopes, and the figure."""

import pytest
from PIL import Image

from dsmoe_eval.reports.run_foretold import (
    calibration_sentences,
    calibration_table,
    foretold_calibrations,
    foretold_effects,
    foretold_figure,
)
from dsmoe_eval.results.foretold import Foretold, ForetoldArm, ForetoldChange

from .made import shown


def change(task, gain, reach=0.05, outcome="score", **more):
    figures = {
        "task": task, "outcome": outcome, "n": 6, "clusters": 6, "test_clusters": 6, "gain": gain,
        "ci95": None if reach is None else (gain - reach, gain + reach),
    }  # fmt: skip
    return ForetoldChange(**figures | more)


def measured_score(arm, task):
    rows = {row.task: row for row in arm.domains}
    return rows.get(task, arm.target_result).delta


@pytest.fixture(scope="module")
def foretold(result):
    """Twice what was measured is foretold, by wide intervals, but for one target."""
    arms = []
    for arm in result.arms:
        names = [arm.target_task, *(row.task for row in arm.domains)]
        reach = 1e-6 if (arm.variant, arm.target) == ("contrast", "math") else 2.0
        rows = [change(name, 0.01 + 2 * measured_score(arm, name), reach) for name in names]
        rows += [
            change(task.task, task.gain / 2, None, "gold_logprob", first_order=task.gain / 4)
            for task in arm.outcome("gold_logprob").tasks
        ]
        arms.append(
            ForetoldArm(
                variant=arm.variant, target=arm.target, profile=arm.profile, changes=tuple(rows)
            )
        )
    made = Foretold(form="gradient", arms=tuple(arms), digest="0" * 64)
    return result.model_copy(update={"foretold": made})


def test_effects_are_those_of_arms_that_may_change_something(foretold):
    effects = foretold_effects(foretold)
    assert {one.arm.variant for one in effects} == {"contrast", "random"}
    assert len(effects) == 2 * 2 * (7 + 6)
    for one in effects:
        assert (one.part == "targets") == (one.foretold.task == one.arm.target_task)
        if one.foretold.outcome == "score":
            assert one.measured == measured_score(one.arm, one.foretold.task)


def test_intervals_that_hold_are_counted_and_slopes_are_of_measured_on_foretold(foretold):
    rows = {(r.outcome, r.part): r for r in foretold_calibrations(foretold_effects(foretold))}
    targets, others = rows["score", "targets"], rows["score", "non-targets"]
    assert (targets.number, targets.covered) == (4, 3)
    assert (others.number, others.covered) == (24, 12 + 6)
    continuous = rows["gold_logprob", "non-targets"]
    assert (continuous.number, continuous.covered) == (0, 0)
    assert continuous.slope == pytest.approx(2)
    assert continuous.first_order == pytest.approx(4)
    assert others.slope is None or others.slope == pytest.approx(0.5)


def test_the_line_says_what_the_table_says(foretold):
    score, continuous = calibration_sentences(foretold)
    assert score.startswith("By score 21 of 28 prediction intervals hold what was then measured")
    assert "targets 3 of 4" in score
    assert "slope of measured on foretold 2.00" in continuous
    assert shown(calibration_table(foretold))[0][:4] == ("score", "targets", "4", "3")


def test_there_is_nothing_of_a_run_that_foretold_nothing(result):
    assert calibration_sentences(result) == []
    assert calibration_table(result).rows == ()


@pytest.mark.full
def test_the_figure_has_a_panel_for_each_part_and_outcome(foretold, tmp_path):
    path = tmp_path / "a.png"
    foretold_figure(foretold_effects(foretold), path)
    wide = Image.open(path).size
    only = [one for one in foretold_effects(foretold) if one.foretold.outcome == "score"]
    foretold_figure(only[:8], path)
    assert Image.open(path).size == (wide[0] // 2, wide[1])

"""Items and samples that a suite needs, against the closed form and a second library."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2
from statsmodels.stats.power import TTestPower

from dsmoe_eval.cards import Suite
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.finished import as_finished
from dsmoe_eval.runs import plan_power
from dsmoe_eval.runs import power as power_module
from dsmoe_eval.stats import midp_power

from ..gates.conftest import whole_result
from ..recorded import record

LAB = load_suite("lab")
TASK = "lab_math_unnamed"
BASE, STEERED = "0" * 16, "3" * 16


@pytest.fixture
def suite():
    """Two targets, one of them answered several times, and a non-target; 300 items each."""
    rows = LAB.model_dump()
    keep = (TASK, "lab_biology_unnamed", "lab_math_named", "lab_biology_named")
    rows["tasks"] = [dict(task) for task in rows["tasks"] if task["name"] in keep]
    rows["tasks"][1] |= {"samples": 4, "temperature": 1.0}
    return Suite.model_validate(rows)


@pytest.fixture(autouse=True)
def sized(monkeypatch):
    monkeypatch.setattr(power_module, "_items", lambda *_: 300)


def pilot_of(gained, n, folder=None, suite="lab", **cells):
    data = whole_result()
    own = {TASK: "1" * 16, "lab_biology_named": "2" * 16} | cells
    row = {"gained": gained, "lost": 0, "n": n}
    for arm in data["arms"]:  # a control's changes do not count
        more = 0 if arm["variant"] == "contrast" else n - gained
        domain = arm["domains"][0] | row
        arm["cells"] = own
        arm["target_result"] |= row | {"lost": more}
        arm["domains"] = [domain | {"task": name} for name in list(own)[1:]]
    wanted = [arm for arm in data["arms"] if arm["target"] == "math" and arm["variant"] != "sham"]
    data |= {"variants": [arm["variant"] for arm in wanted], "targets": ["math"], "arms": wanted}
    data["base"] = [data["base"][0] | {"task": name, "cell": BASE} for name in own]
    data["run"]["suite"] = suite
    return as_finished(data, "pilot", folder)


def test_without_a_pilot_two_discordances_are_assumed(suite):
    found = plan_power(suite, 0.02)
    assert [task.task for task in found] == [task.name for task in suite.tasks]
    for need, share in zip(found[0].needs, (0.1, 0.3), strict=True):
        assert (need.discordance, need.measured, need.samples) == (share, None, None)
        assert need.items == pytest.approx(7.85 * share / 0.02**2, rel=0.02)
        assert midp_power(need.items, 0.02, share) >= 0.8


def test_by_a_pilot_with_its_upper_limit(suite):
    found = {task.task: task for task in plan_power(suite, 0.02, pilot_of(30, 200))}
    for name in (TASK, "lab_biology_named"):
        (need,) = found[name].needs
        limit = (
            binomtest(30, 200).proportion_ci(0.6, "exact").high
        )  # two-sided 60 %: one-sided 80 %
        assert (need.measured, need.arm) == (0.15, "contrast on math")
        assert need.discordance == pytest.approx(limit)
        assert need.items == pytest.approx(7.85 * limit / 0.02**2, rel=0.02)
    assert len(found["lab_math_named"].needs) == 2  # not in the pilot


def test_a_pilot_in_which_nothing_or_everything_changed(suite):
    for gained, expected in ((0, 1 - 0.2 ** (1 / 20)), (20, 1.0)):
        need = plan_power(suite, 0.02, pilot_of(gained, 20))[0].needs[0]
        assert need.discordance == pytest.approx(expected)
    assert plan_power(suite, 0.5, pilot_of(0, 20))[0].needs[0].discordance == 0.5


def write(folder, cell, scores):
    path = folder.cell(cell)
    path.mkdir(parents=True)
    rows = {"item": [f"i{n}" for n in range(len(scores))], "scores": list(scores)}
    pd.DataFrame(rows).to_parquet(path / "samples.parquet")
    record(folder.root)


def test_samples_by_their_variance(suite, tmp_path):
    draw, folder, task = np.random.default_rng(5), RunFolder(tmp_path), "lab_biology_unnamed"
    sides = [(draw.random((40, 4)) < draw.random((40, 1))).astype(float) for _ in range(2)]
    for cell, scores in zip((BASE, STEERED), sides, strict=True):
        write(folder, cell, scores)
    pilot = pilot_of(10, 40, folder, **{task: STEERED})
    found = next(one for one in plan_power(suite, 0.05, pilot) if one.task == task)
    (need,) = found.needs
    within = sum(side.var(axis=1, ddof=1).mean() for side in sides)
    total = (sides[1].mean(axis=1) - sides[0].mean(axis=1)).var(ddof=1)
    items = max(0.0, total - within / 4)
    assert items > 0
    inflation = 39 / chi2.ppf(0.2, 39)
    assert need.measured == pytest.approx(items + within)
    assert need.discordance == pytest.approx((items + within) * inflation)

    def needed(samples, margin=0.05):
        effect = margin / np.sqrt((items + within / samples) * inflation)
        return TTestPower().solve_power(effect, power=0.8, alpha=0.05)

    assert need.items == int(np.ceil(needed(4)))
    assert need.samples is None
    assert needed(10**6) > 300
    more = next(one for one in plan_power(suite, 0.09, pilot) if one.task == task).needs[0]
    assert needed(more.samples, 0.09) <= 300 < needed(more.samples - 1, 0.09)


def test_where_the_items_own_spread_is_too_large_no_samples_help(suite, tmp_path):
    folder, task = RunFolder(tmp_path), "lab_biology_unnamed"
    write(folder, BASE, np.zeros((20, 4)))
    write(folder, STEERED, np.repeat([[1.0], [0.0]], 10, axis=0) * np.ones((1, 4)))
    pilot = pilot_of(10, 20, folder, **{task: STEERED})
    found = next(one for one in plan_power(suite, 0.01, pilot) if one.task == task)
    assert found.needs[0].samples is None
    assert found.needs[0].items > 300


def test_what_cannot_be_planned(suite):
    for margin in (0.0, 1.0, -0.1):
        with pytest.raises(UserError, match="give a fraction such as"):
            plan_power(suite, margin)
    pilot = pilot_of(10, 20, lab_biology_unnamed=STEERED)
    with pytest.raises(UserError, match="has samples; give the"):
        plan_power(suite, 0.01, pilot)
    with pytest.raises(UserError, match="is no run of suite 'lab'"):
        plan_power(suite, 0.01, pilot_of(10, 20, suite="paper"))

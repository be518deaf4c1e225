"""Items that each outcome needs, against simulation and a second library."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from statsmodels.stats.power import TTestPower

from dsmoe_eval.cli import main
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs.outcome_power import outcome_needs
from dsmoe_eval.stats import compare_paired, midp_power

from ..leaderboards.conftest import make_run as made  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def folder(made):  # noqa: F811
    return made(texts=True, items=120, outcome="gold_logprob")


def test_outcomes_stand_side_by_side_on_the_same_arms(folder):
    run = read_finished(folder)
    needs = outcome_needs(run)
    assert [(one.arm, one.outcome) for one in needs] == [
        (f"{variant} on {target}", outcome)
        for target in ("math", "law")
        for variant in ("contrast", "sft-lora")
        for outcome in ("score", "gold_logprob", "bits_per_byte")
    ]
    for one in needs:
        variant, _, target = one.arm.partition(" on ")
        arm = run.arms[variant, target]
        if one.outcome == "score":
            row = arm.target_result
            assert midp_power(one.needed, row.delta, row.flipped) == pytest.approx(0.8, abs=0.02)
            continue
        row = arm.outcome(one.outcome).target
        assert (one.items, one.gain, one.mde80) == (row.n, row.gain, row.mde80)
        assert one.needed == math.ceil(row.n * (row.mde80 / row.gain) ** 2)


def test_the_number_is_that_of_the_t_test_where_nothing_is_hidden():
    """statsmodels' power of the paired t test, on many items whose tails are symmetric."""
    rng = np.random.default_rng(1)
    a = -np.exp(rng.normal(0, 0.5, 4000))
    b = a + rng.normal(0.05, 0.6, 4000)
    result = compare_paired(a, b)
    needed = result.n * (result.mde80 / result.delta) ** 2
    exact = TTestPower().solve_power(result.delta / np.std(b - a, ddof=1), alpha=0.05, power=0.8)
    assert needed == pytest.approx(exact, rel=0.03)


def test_the_command_prints_both(folder, tmp_path):
    suite = tmp_path / "subjects.yaml"
    suite.write_text(
        "name: subjects\ndescription: d\ntasks_dir: .\n"
        "splits: {identification: a, tuning: b, test: c}\n"
        "tasks:\n- {name: math_task, domain: math, roles: [target, identification], metric: acc}\n"
        "- {name: law_task, domain: law, roles: [non-target, identification], metric: acc}\n"
    )
    asked = ["power", "--suite", str(suite), "--margin", "0.02", "--pilot", str(folder)]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0, shown.output
    assert "gold_logprob" in shown.output
    assert "items needed" in shown.output
    told = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)
    assert len(told["outcomes"]) == 12

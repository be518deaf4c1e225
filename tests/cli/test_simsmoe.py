"""The command `simsmoe`."""

import json

import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.cli.simsmoe import NAMES
from dsmoe_eval.studies.simsmoe_training import OBJECTIVES


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["simsmoe", "--dry-run", "--seeds", "2", "--out", str(out)])
    assert done.exit_code == 0
    words = " ".join(done.output.split())
    assert "8 trainings: none, balance, published, debiased, 2 seed(s) each; 640 steps" in words
    assert not out.exists()


def test_a_dry_run_prints_json(tmp_path):
    options = ["--dry-run", "--json", "--seeds", "1", "--objective", "none", "--out", tmp_path]
    done = CliRunner().invoke(main, ["simsmoe", *map(str, options)])
    assert json.loads(done.stdout) == {"objectives": ["none"], "seeds": [0], "steps": 640}


def test_its_objectives_are_those_of_the_study():
    assert NAMES == OBJECTIVES


@pytest.mark.parametrize("options", [["--objective", "ce"], ["--seeds", "0"], ["--steps", "3"]])
def test_bad_options_are_refused(options):
    assert CliRunner().invoke(main, ["simsmoe", *options]).exit_code != 0

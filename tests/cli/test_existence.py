"""The command `existence`: by both, and on several checkpoints."""

import json
import shutil

import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.lab import EMBEDDED_MODELS

COMMON = ["--suite", "lab", "--limit", "3", "--device", "cpu", "--permutations", "99"]
FEW = ["--controls", "1"]


@pytest.mark.full
def test_by_both_prints_the_agreement_first(tmp_path):
    out = ["--by", "both", "--out", str(tmp_path / "e")]
    done = CliRunner().invoke(main, ["existence", "lab-poly", *COMMON, *FEW, *out])
    assert done.exit_code == 0, done.output
    assert "specific experts by counts and 0 by influence 0 are the same" in done.stdout
    written = json.loads((tmp_path / "e/existence.json").read_text())
    assert written["influence"]["form"] == "exact"


def test_several_models_are_checkpoints(tmp_path):
    for name in ("step-1", "step-2"):
        shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / name)
    models = [str(tmp_path / name) for name in ("step-1", "step-2")]
    out = ["--by", "influence", "--out", str(tmp_path / "e"), "--json"]
    done = CliRunner().invoke(main, ["existence", *models, *COMMON, *FEW, *out])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["label"] for row in found["checkpoints"]] == ["step-1", "step-2"]
    assert found == json.loads((tmp_path / "e/emergence.json").read_text())
    first, second = (row["tests"] for row in found["checkpoints"])
    assert first == second  # the same weights
    assert "checkpoint step-2" in done.stderr

"""The command `predict`."""

import json

import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention


@pytest.mark.full
def test_it_prints_a_page_or_json_and_writes_the_report(tmp_path):
    identity = load_engine("lab-poly", device="cpu").identity
    made = trial_profile(identity, Intervention(kind="reweight", strength=2.0), [0])
    made = made.model_copy(update={"source": made.source.model_copy(update={"domain": "math"})})
    path = tmp_path / "profile.json"
    path.write_text(made.to_json())
    given = ["predict", str(path), "--suite", "lab", "--limit", "2", "--device", "cpu"]
    out = ["--out", str(tmp_path / "r"), "--observations", str(tmp_path / "o")]
    done = CliRunner().invoke(main, [*given, *out, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "r/predict.json").read_text())
    assert "predict: base and 3 strengths, each 14 answers to the identification" in done.stderr
    assert "# What profile" in (tmp_path / "r/predict.md").read_text()
    assert not (tmp_path / "o").exists()  # no logits are shifted


def test_a_file_that_is_no_profile_is_named(tmp_path):
    path = tmp_path / "none.json"
    done = CliRunner().invoke(main, ["predict", str(path), "--suite", "lab"])
    assert done.exit_code != 0
    assert "none.json" in done.output + str(done.exception)

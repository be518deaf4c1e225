"""The command `influence`."""

import json

from click.testing import CliRunner

from dsmoe_eval.cli import main

COMMON = ["influence", "lab-poly", "--suite", "lab", "--limit", "1", "--device", "cpu"]


def test_influence_prints_a_page_or_json_and_writes_the_report(tmp_path):
    folder = ["--observations", str(tmp_path / "o")]
    done = CliRunner().invoke(main, [*COMMON, *folder, "--form", "gradient"])
    assert done.exit_code == 0, done.output
    assert "# What raising an expert of lab-poly does" in done.stdout
    assert "influence: 7 items, 37 texts" in done.stderr
    out = ["--out", str(tmp_path / "r"), "--json"]
    done = CliRunner().invoke(main, [*COMMON, *folder, "--form", "gradient", *out])
    assert json.loads(done.stdout) == json.loads((tmp_path / "r/influence.json").read_text())
    assert (tmp_path / "r/influence.png").is_file()


def test_what_cannot_be_is_said_before_a_model_is_loaded():
    done = CliRunner().invoke(main, [*COMMON, "--channel", "score", "--form", "gradient"])
    assert done.exit_code != 0
    assert "take the form exact" in done.output + str(done.exception)

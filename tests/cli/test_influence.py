"""The command `influence`."""

import json

from click.testing import CliRunner

from dsmoe_eval.cli import main

from ..dense import WIDTH, saved_dense

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


def test_the_influence_of_neurons_of_a_dense_model(tmp_path):
    saved_dense("llama", tmp_path / "model")
    given = ["influence", str(tmp_path / "model"), *COMMON[2:], "--json"]
    given += ["--observations", str(tmp_path / "o")]
    done = CliRunner().invoke(main, [*given, "--sites", "neurons", "--block", "2"])
    assert done.exit_code == 0, done.output
    assert "influence of blocks of 2 neurons" in done.stderr
    found = json.loads(done.stdout)
    assert (found["units"], found["experts"]) == ("blocks of 2 neurons", WIDTH // 2)
    for more, words in {
        ("--block", "2"): "--block is for --sites neurons",
        ("--sites", "neurons", "--step", "1"): "leave channel, step and unit out",
        (): "--sites neurons, in a plan `sites: neurons`",
    }.items():
        done = CliRunner().invoke(main, [*given, *more])
        assert words in done.output + str(done.exception)

"""The command `keep`."""

import json

import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main

COMMON = ["keep", "lab-poly", "--suite", "lab", "--role", "non-target", "--device", "cpu"]


@pytest.mark.full
def test_keep_prints_json_and_writes_the_report(tmp_path):
    options = ["--domain", "law", "--items", "3", "--methods", "frequency", "--draws", "1"]
    out = ["--keep", "50%", "--out", tmp_path / "r", "--observations", tmp_path / "o", "--json"]
    done = CliRunner().invoke(main, [str(one) for one in (*COMMON, *options, *out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "r/keep.json").read_text())
    assert (tmp_path / "r/keep.md").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "half"], "--keep 'half' is no list of per cent, such as 75,50,25"),
        (["--keep", "0,50"], "is no list of per cent"),
        (["--keep", "150"], "is no list of per cent"),
        (["--methods", "reap,magic"], "--methods: no method 'magic'"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(options, words):
    done = CliRunner().invoke(main, [*COMMON, *options])
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)

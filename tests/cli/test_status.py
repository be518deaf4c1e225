"""`dsmoe-eval status`: what it prints, and its exit code."""

import json
import subprocess
import sys

from click.testing import CliRunner

from dsmoe_eval.cli import main

from ..executors.runs_on_disk import add_log, beat, begin, finish


def status(*arguments):
    done = CliRunner().invoke(main, ["status", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_a_folder_without_runs_is_refused(tmp_path):
    code, said, error = status(tmp_path / "nowhere")
    assert (code, said) == (3, "")
    assert error.splitlines()[-1].endswith("give the folder of a run, or of several models' runs")


def test_a_matrix_is_a_table_or_json_and_one_that_failed_is_a_negative_result(tmp_path):
    finish(begin(tmp_path / "a", "org/a"), 4)
    folder = begin(tmp_path / "b", "org/b")
    beat(folder, "w", stage="tune arms")
    code, said, _ = status(tmp_path)
    assert code == 0
    assert [line.split()[:2] for line in said.splitlines()] == [
        ["model", "stage"], ["org/a", "finished"], ["org/b", "tune"],
    ]  # fmt: skip
    beat(folder, "w", state="failed", text="no room [red]")
    add_log(folder, "w", ("ended by an error", {"type": "UserError"}))
    code, said, _ = status(tmp_path)
    assert code == 1
    assert said.splitlines()[-2:] == [
        "org/b: worker w on node-a failed: no room [red]",
        "    00:37:25 ended by an error type=UserError",
    ]
    code, said, _ = status(tmp_path, "--json")
    assert code == 1
    assert [(one["model"], one["state"]) for one in json.loads(said)] == [
        ("org/a", "finished"), ("org/b", "failed"),
    ]  # fmt: skip


def test_one_that_nobody_works_on_is_a_negative_result(tmp_path):
    begin(tmp_path)
    assert status(tmp_path)[0] == 1


def test_the_folder_is_only_read_and_no_torch_is_loaded(tmp_path):
    """A run that only others may write, from the login node of a cluster."""
    folder = begin(tmp_path / "run")
    beat(folder, "w", stage="s")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    code = (
        "import sys; from dsmoe_eval.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'pandas', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", code, "status", str(folder.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    assert "lab-poly" in done.stdout
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before

"""A worker shows what it does, and that it lives."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from dsmoe_eval.progress import progress_bar
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import workers
from dsmoe_eval.runs.workers import Worker, WorkerState, read_workers


def test_the_file_has_the_stage_and_its_counts(tmp_path):
    worker = Worker(tmp_path, "a", "10.0.0.1")
    worker.cells, worker.open = 12, 5
    quiet = Console(file=io.StringIO())
    with worker.working(), progress_bar(quiet, "tune arms", 10, "answers") as steps:
        steps.skip(2)
        steps(3)
        worker.beat()
        (state,) = read_workers(RunFolder(tmp_path))
        assert state == WorkerState(
            "a", "10.0.0.1", os.getpid(), "working", "tune arms", 5, 10, "answers",
            state.rate, state.seconds_left, 12, 5,
        )  # fmt: skip
        assert state.rate > 0
        assert state.seconds_left > 0
        assert state.lives
    assert not (tmp_path / "workers").exists()


def test_it_is_written_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.02)
    worker = Worker(tmp_path, "a")
    with worker.working():
        first = worker.now
        time.sleep(0.2)
        assert worker.now > first


def test_the_last_of_others_may_end_while_it_begins(tmp_path, monkeypatch):
    """The last worker removes the folder, also between its making and the first write."""
    write, ends = Path.write_bytes, [True]

    def late(path, content):
        if ends:
            ends.clear()
            path.parent.rmdir()
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", late)
    with Worker(tmp_path, "a").working():
        assert RunFolder(tmp_path).worker("a").is_file()


def test_what_went_wrong_stays(tmp_path):
    worker = Worker(tmp_path, "a")
    with pytest.raises(ZeroDivisionError), worker.working():
        _ = 1 / 0
    (state,) = read_workers(RunFolder(tmp_path))
    assert (state.state, state.text, state.lives) == ("failed", "ZeroDivisionError", False)


def test_its_content_is_json_for_other_programs(tmp_path):
    Worker(tmp_path, "a").beat()
    content = json.loads(RunFolder(tmp_path).worker("a").read_text())
    assert "age" not in content
    assert content["state"] == "working"

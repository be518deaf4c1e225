"""What a run's folder has, also while it changes."""

import os
import socket
import subprocess
import time

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import contents
from dsmoe_eval.executors.contents import last_lines, model_of, read_contents
from dsmoe_eval.files import LOCK, lock_folder, write_json
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.manifest import TWICE

from .runs_on_disk import add_cells, add_log, begin, finish


def test_cells_are_counted_without_drafts(tmp_path):
    folder = begin(tmp_path)
    assert read_contents(tmp_path).cells == 0
    add_cells(folder, 3)
    (tmp_path / "cells" / ".00.12ab.tmp").mkdir()
    found = read_contents(tmp_path)
    assert (found.begun, found.finished, found.cells, found.recorded) == (True, False, 3, None)


def test_a_finished_run_has_what_its_plan_asks_for(tmp_path):
    folder = begin(tmp_path, stability={"resamples": 2})
    finish(folder, 5)
    found = read_contents(tmp_path)
    assert (found.finished, found.compared) == (False, True)
    write_json(folder.stability, {})
    found = read_contents(tmp_path)
    assert (found.finished, found.cells, found.recorded) == (True, 5, 5)  # copied without its cells
    add_cells(folder, 4)
    assert read_contents(tmp_path).cells == 4


def test_a_result_alone_is_finished(tmp_path):
    write_json(tmp_path / "comparisons.json", {})
    found = read_contents(tmp_path)
    assert (found.finished, found.begun, found.cells) == (True, False, 0)


def test_logs_have_the_cells_the_end_and_what_was_done_twice(tmp_path):
    folder = begin(tmp_path)
    begins, twice = ("run begins", {"cells": 8}), (TWICE, {"part": "cells/00"})
    add_log(folder, None, ("run begins", {}), ("run ends", {}))  # of an earlier version
    add_log(folder, "a", begins, twice, twice, (TWICE, {"part": "adapters/x"}), ("run ends", {}))
    add_log(folder, "b", begins, ("run ends", {}), begins, ("cell done", {"part": TWICE}))
    folder.log.write_bytes(folder.log.read_bytes() + b'{"message": "run begins", "fie')
    events = read_contents(tmp_path).events
    assert [(name, e.cells, e.ended, e.twice) for name, e in events.items()] == [
        ("log.jsonl", None, True, 0),
        ("a.jsonl", 8, True, 2),
        ("b.jsonl", 8, False, 0),
    ]
    add_log(folder, "b", ("run ends", {}))
    assert read_contents(tmp_path).events["b.jsonl"].ended


def test_damage_is_named(tmp_path):
    folder = begin(tmp_path)
    finish(folder, 1)
    folder.manifest.write_text("[1]")
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        read_contents(tmp_path)
    folder.identity.write_text("[1]")
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        read_contents(tmp_path)


def test_the_name_of_the_model(tmp_path):
    assert model_of(begin(tmp_path / "x", "a/b@1").root) == "a/b@1"
    assert model_of(tmp_path / "y") == "y"
    (tmp_path / "x" / "run.json").write_text("[]")
    assert model_of(tmp_path / "x") == "x"


def test_who_has_locked_the_folder(tmp_path):
    begin(tmp_path)
    unlock = lock_folder(tmp_path)
    here = socket.gethostname()
    assert read_contents(tmp_path).owner == f"process {os.getpid()} on {here}"
    unlock()
    assert read_contents(tmp_path).owner is None
    lock_folder(tmp_path, shared=True)()  # of a shard it stays
    assert (tmp_path / LOCK).read_text() == f"one of several, process {os.getpid()} on {here}"
    assert read_contents(tmp_path).owner is None
    (tmp_path / LOCK).write_text("process 12 on elsewhere")
    assert read_contents(tmp_path).owner == "process 12 on elsewhere"
    dead = subprocess.Popen(["true"])  # noqa: S607
    dead.wait()
    (tmp_path / LOCK).write_text(f"process {dead.pid} on {here}")
    assert read_contents(tmp_path).owner is None


def test_last_lines_are_for_people(tmp_path):
    folder = begin(tmp_path)
    assert last_lines(tmp_path, "local") == ()
    add_log(folder, None, *[("cell done", {"task": n}) for n in range(9)])
    assert last_lines(tmp_path, "local") == tuple(f"00:37:25 cell done task={n}" for n in (6, 7, 8))
    add_log(folder, "a", ("ended by an error", {"text": "said elsewhere", "type": "UserError"}))
    folder_log = RunFolder(tmp_path, "a").log
    folder_log.write_bytes(folder_log.read_bytes() + b"{cut \xff")
    assert last_lines(tmp_path, "a") == (
        "00:37:25 ended by an error type=UserError",
        "{cut \N{REPLACEMENT CHARACTER}",
    )


def test_a_thousand_cells_take_a_moment(tmp_path):
    folder = begin(tmp_path)
    add_cells(folder, 1000)
    add_log(folder, None, *[("cell done", {"task": "t", "n": n}) for n in range(5000)])
    finish(folder, 1000)
    contents._events.cache_clear()
    began = time.process_time()
    assert read_contents(tmp_path).cells == 1000
    assert time.process_time() - began < 0.3

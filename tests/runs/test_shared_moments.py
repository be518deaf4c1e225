"""A worker stops at any line; others do its work; whatever it does later changes nothing of it."""

import sys
import threading
from pathlib import Path

import pytest

from dsmoe_eval.results import manifest
from dsmoe_eval.results.folder import RunFolder, open_folder
from dsmoe_eval.runs import leases, workers
from dsmoe_eval.runs.leases import Piece, Shared
from dsmoe_eval.runs.workers import Worker

FILES = ("leases.py", "workers.py", "manifest.py", "folder.py", "files.py")
PLAN, IDENTITY = "name: a\n", {"model": "m"}
WHOLE = {"run.json", "plan.yaml", "manifest.json", "cells", "identification.json"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.05)
    monkeypatch.setattr(leases, "LEASE", 0.3)
    monkeypatch.setattr(leases, "_PAUSE", 0.005)
    monkeypatch.setattr(manifest, "_PATIENCE", 0.1)


def work(root, name, dead=()):
    """A run in small: something that is learned, and two cells, which say who made them."""
    worker = Worker(root, name)
    alive = worker.knows_alive
    worker.knows_alive = lambda other: other not in dead and alive(other)
    shared = Shared(root, worker)

    def piece(cell):
        path = folder.cell(cell)

        def do():
            with folder.new_folder(path) as draft:
                (draft / "cell.json").write_text(cell)
                (draft / "samples.parquet").write_text(name)

        there = (path / "cell.json", path / "samples.parquet")
        return Piece(cell, lambda: all(map(folder.has, there)), do, lambda: None)

    with worker.working():
        with shared.turn("folder"):
            folder = open_folder(root, PLAN, IDENTITY, name)
        with shared.turn("identification"):
            if not folder.has(folder.identification):
                folder.write_json(folder.identification, {})
        shared.share([piece("x"), piece("y")])


class Stop:
    """Stops a thread before its nth line in the files above, until it may go on."""

    def __init__(self, number):
        self.left, self.stopped, self.may_go_on = number, threading.Event(), threading.Event()

    def __call__(self, frame, _event, _arg):
        return self.line if frame.f_code.co_filename.endswith(FILES) else None

    def line(self, _frame, event, _arg):
        self.left -= event == "line"
        if self.left == 0 and not self.stopped.is_set():
            self.stopped.set()
            self.may_go_on.wait()
        return self.line


def in_thread(errors, stop, *arguments):
    def run():
        sys.settrace(stop)
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)
        finally:
            sys.settrace(None)
            if stop:
                stop.stopped.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def answers(root):
    return {path: path.read_text() for path in root.glob("cells/[xy]/*")}


def stop_at(root, number):
    """Stop one worker at a line, let another do all, and let the first go on.

    Returns whether it had a line of this number.
    """
    errors, stop = [], Stop(number)
    late = in_thread(errors, stop, root, "late")
    assert stop.stopped.wait(20)
    before = in_thread(errors, None, root, "other", {"late"})
    before.join(20)
    assert not before.is_alive(), "the other waits for ever"
    found = answers(root)
    assert len(found) == 4
    stop.may_go_on.set()
    late.join(20)
    assert not errors
    assert answers(root) == found
    folder = open_folder(root, PLAN, IDENTITY)
    folder.check()
    assert {path.name for path in root.iterdir()} - {"workers"} == WHOLE
    assert not any(RunFolder(root).workers.glob("*"))
    return stop.left <= 0


@pytest.mark.parametrize("number", range(20, 660, 40))
def test_a_late_worker_changes_nothing(tmp_path, number):
    assert stop_at(Path(tmp_path), number)


@pytest.mark.full
def test_a_late_worker_changes_nothing_wherever_it_was(tmp_path):
    number = 1
    while stop_at(tmp_path / str(number), number):
        number += 1
    assert number > 600

"""A model's run as its driver sees it."""

import os

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import driven
from dsmoe_eval.executors.base import Matrix
from dsmoe_eval.executors.driven import DrivenRun
from dsmoe_eval.files import write_json
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import RunOptions


def node(name, cpus, gpus=0):
    return {"NodeID": name, "Resources": {"CPU": cpus, "GPU": gpus}}


def test_a_node_fits_that_is_large_enough_and_was_not_at_fault(tmp_path):
    run = DrivenRun(Matrix("lab", tmp_path, ("lab-poly",), RunOptions()), "lab-poly")
    assert run.fits(node("a", 1.0))
    assert not run.fits(node("b", 0.5))
    run.avoided.add("a")
    assert not run.fits(node("a", 1.0))


def test_orders_name_workers_and_the_open_pieces_are_theirs(tmp_path):
    run = DrivenRun(Matrix("lab", tmp_path, ("lab-poly",), RunOptions()), "lab-poly")
    first, second = run.order(), run.order()
    assert first.name != second.name
    assert first.options.model == "lab-poly"
    assert run.open_pieces() is None
    about = {"node": "a", "process": 1}
    write_json(run.folder.worker("one"), {"name": "one", "open": 5, **about})
    write_json(run.folder.worker("two"), {"name": "two", "open": 3, **about})
    write_json(
        run.folder.worker("failed"), {"name": "failed", "state": "failed", "open": 9, **about}
    )
    assert run.open_pieces() == 5


def test_workers_of_a_killed_driver_end_first(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    write_json(folder.worker("old"), {"name": "old", "node": "a", "process": 1})
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) < 3:
            os.utime(folder.worker("old"), (0, len(sleeps)))  # it still writes

    monkeypatch.setattr(driven.time, "sleep", sleep)
    driven._await_silence(folder)
    assert len(sleeps) == 3
    monkeypatch.setattr(driven, "_MOST_LOOKS", 1)
    with pytest.raises(UserError, match=r"workers of another start still write here \(old\)"):
        driven._await_silence(folder)

"""A worker of the executor `ray`, without Ray."""

import errno
from pathlib import Path

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import actor
from dsmoe_eval.executors.actor import Actor, End, Order, write_token
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import RunOptions


@pytest.fixture
def order(tmp_path):
    write_token(tmp_path, "token")
    return Order("worker", "lab", tmp_path, RunOptions(), Path.cwd(), "token")


def test_a_folder_that_is_not_shared_is_refused(order, tmp_path):
    write_token(tmp_path, "another")
    failure = Actor().work(order).failure
    assert "this is not the folder that the run was started in" in failure
    assert list(RunFolder(tmp_path).workers.iterdir()) == [tmp_path / "workers" / "token"]


@pytest.mark.parametrize(
    ("error", "of_node"),
    [
        (UserError("plan 'lab': no such model"), False),
        (UserError("cells: cannot be written (No space left on device); free some space"), True),
        (OSError(errno.EIO, "Input/output error"), True),
    ],
)
def test_only_what_may_go_well_on_another_node_names_the_node(order, monkeypatch, error, of_node):
    def fail(*_arguments):
        raise error

    monkeypatch.setattr(actor, "run_with", fail)
    monkeypatch.setattr(actor, "_node", lambda: "abc")
    end = Actor().work(order)
    assert str(error) in end.failure
    assert end == End(end.failure, "abc" if of_node else None)


def test_an_error_of_ours_is_raised(order, monkeypatch):
    monkeypatch.setattr(actor, "run_with", lambda *_arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        Actor().work(order)

"""The files of workers, as others read them."""

import errno
import os
import time

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_json
from dsmoe_eval.results import workers
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.workers import LEASE, read_worker, read_workers

CONTENT = {"name": "a", "node": "10.0.0.1", "process": 7}


@pytest.fixture
def path(tmp_path):
    found = RunFolder(tmp_path).worker("a")
    write_json(found, CONTENT)
    return found


def test_age_is_that_of_the_file(tmp_path, path):
    (state,) = read_workers(RunFolder(tmp_path))
    assert state.lives
    os.utime(path, (time.time() - LEASE - 5,) * 2)
    (state,) = read_workers(RunFolder(tmp_path))
    assert state.age == pytest.approx(LEASE + 5, abs=1)
    assert not state.lives


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "a", "nodes": 3}'])
def test_a_damaged_file_is_named(tmp_path, path, content):
    path.write_text(content)
    with pytest.raises(UserError, match=r"workers/a\.json"):
        read_workers(RunFolder(tmp_path))


def test_a_run_without_workers_has_none(tmp_path):
    assert read_workers(RunFolder(tmp_path)) == []


def test_one_that_has_just_ended_is_none(path, monkeypatch):
    monkeypatch.setattr(workers, "time_of", lambda found: found.unlink() or 0.0)
    assert read_worker(path, 0.0) is None


def test_one_that_was_just_written_again_is_read_again(path, monkeypatch):
    """NFS refuses to read a file that another has replaced since it was opened."""
    errors = [OSError(errno.ESTALE, "Stale file handle")]

    def once(_path):
        if errors:
            raise errors.pop()
        return 5.0

    monkeypatch.setattr(workers, "time_of", once)
    assert read_worker(path, 7.0).age == 2.0
    errors.append(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        read_worker(path, 7.0)

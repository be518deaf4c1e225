"""Writes are whole or absent."""

import errno
import json
import os
import re
import resource
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dsmoe_eval.engines.requests import Answer
from dsmoe_eval.engines.response_log import ResponseLog
from dsmoe_eval.errors import EvalWarning, UserError
from dsmoe_eval.files import (
    LOCK,
    lock_folder,
    locked,
    new_folder,
    read_json,
    read_limited,
    remove_drafts,
    seal,
    unseal,
    write_json,
    write_text,
)
from dsmoe_eval.log import log_file, note


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail_half_way():
        with new_folder(tmp_path / "cell") as draft:
            (draft / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "cell") as draft:
        (draft / "whole").write_text("x")
    assert (tmp_path / "cell" / "whole").read_text() == "x"


def test_damaged_json_is_said_so(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match="damaged JSON"):
        read_json(tmp_path / "a.json")


OWNER = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from dsmoe_eval.files import lock_folder
unlock = lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process, which works in the folder `run`."""
    command = [sys.executable, "-c", OWNER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_case_15_a_folder_is_locked_by_one_process_until_that_dies(tmp_path, owner):
    folder = tmp_path / "run"
    words = f"run: process {owner.pid} on {socket.gethostname()} works in this folder; wait"
    with pytest.raises(UserError, match=re.escape(words)):
        lock_folder(folder)
    with pytest.raises(UserError, match=re.escape(words)), locked(folder, folder / "report"):
        pass
    with locked(folder, tmp_path / "elsewhere"):
        pass
    owner.kill()
    owner.wait()
    assert (folder / LOCK).is_file()  # of the dead process
    unlock = lock_folder(folder)
    assert (folder / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    unlock()
    assert list(folder.iterdir()) == []


def test_case_15_children_do_not_share_the_lock(tmp_path):
    unlock = lock_folder(tmp_path)
    child = subprocess.Popen(["sleep", "600"], close_fds=False)  # noqa: S607
    unlock()
    lock_folder(tmp_path)()
    child.kill()
    child.wait()


def test_case_15_a_folder_that_is_not_there_is_not_made_to_be_locked(tmp_path):
    with locked(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"):
        lock_folder(tmp_path / "file")


def test_case_15_a_file_system_without_locks_is_said_so(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.warns(EvalWarning, match="has no locks .No locks available.; make sure"):
        lock_folder(tmp_path)()


def test_case_15_drafts_of_dead_processes_are_removed(tmp_path):
    for name in (".cell.00ff.tmp/samples.parquet", "cells/.cell.00fe.tmp/a/b", "cells/whole/c"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".run.json.00ff.tmp").write_text("x")
    remove_drafts(tmp_path)
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert list(map(str, left)) == ["cells/whole/c"]


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_sealed_content_comes_back(content):
    assert unseal(json.loads(json.dumps(seal(content)))) == content


@pytest.mark.parametrize("sealed", [None, [], {}, {"content": 1}, seal(1) | {"content": 2}])
def test_case_09_what_was_not_sealed_so_is_refused(sealed):
    with pytest.raises(ValueError, match="SHA-256"):
        unseal(sealed)


@contextmanager
def small_disk():
    """A limit of 4 kB per file, met by real writes; inside, pytest itself must not print."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def save_adapter(folder):
    with new_folder(folder / "adapter") as draft:
        save_file({"a": torch.ones(10_000)}, draft / "adapter_model.safetensors")


def save_samples(folder):
    with new_folder(folder / "cell") as draft:
        frame = pd.DataFrame({"a": np.random.default_rng(0).random(10_000)})
        frame.to_parquet(draft / "samples.parquet")


def save_answers(folder):
    ResponseLog(folder / "x.jsonl").add([(None, Answer(tuple(range(5000)), "stop"))])


def save_log(folder):
    with log_file(folder / "log.jsonl"):
        note("x", text="x" * 9000)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (lambda folder: write_text(folder / "a.json", "x" * 9000), "a.json"),
        (save_adapter, "adapter"),
        (save_samples, "cell"),
        (save_answers, "x.jsonl"),
        (save_log, "log.jsonl"),
    ],
)
def test_case_14_a_full_disk_is_said_with_the_file_and_the_way_out(tmp_path, save, name):
    with small_disk(), pytest.raises(UserError) as error:
        save(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: cannot be written (File too large)")
    assert "free some space" in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_case_14_what_is_no_file_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UserError, match=r"a: larger than the limit of 0 MB; check the path"):
        read_limited(tmp_path / "a", 4)
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path}: is not a regular file"):
            read_limited(path, 5)
    with pytest.raises(UserError, match="cannot be read"):
        read_limited(Path("a\0b"), 5)

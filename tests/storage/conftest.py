"""A bucket in memory, one in a folder, and a folder to be copied there."""

import secrets

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console

from dsmoe_eval.files import write_bytes
from dsmoe_eval.storage.copies import Original

QUIET = Console(quiet=True)
FILES = {
    "run.json": b"{}",
    "cells/a/cell.json": b"1",
    "cells/a/samples.parquet": bytes(range(256)),
    "cells/b/cell.json": b"",
    "report/index.html": "<p>é</p>".encode(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; gives the folder of local copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dsmoe_eval.storage.names._SHOWN", {})
    return tmp_path / "cache" / "dsmoe-eval" / "copies"


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        write_bytes(tmp_path / "run" / name, content)
    return tmp_path / "run"


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """The URL of a folder that is not there yet."""
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/run"
        return
    name = secrets.token_hex(4)
    yield f"memory://{name}/run"
    for path in [path for path in MemoryFileSystem.store if path.startswith(f"/{name}/")]:
        del MemoryFileSystem.store[path]


def originals(folder):
    return {
        path.relative_to(folder).as_posix(): Original.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

import subprocess
import sys

import pytest

from dsmoe_eval.storage import is_url, shown
from dsmoe_eval.storage.names import scheme_of, show_as


@pytest.mark.parametrize("text", ["s3://b/r", "S3://b", "file:///r", "memory://r", "zip::s3://b"])
def test_urls(text):
    assert is_url(text)


@pytest.mark.parametrize("text", ["out/lab", "/out", "out/lab:base", "a.csv:score", "C:/x", ""])
def test_paths(text):
    assert not is_url(text)
    assert scheme_of(text) == ""


def test_local_copies_are_shown_by_their_urls(tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.storage.names._SHOWN", {})
    show_as(tmp_path / "one", "s3://b/run")
    assert shown(f"{tmp_path}/one/cells: damaged") == "s3://b/run/cells: damaged"
    assert shown(str(tmp_path)) == str(tmp_path)


def test_every_command_starts_without_fsspec():
    code = "import sys, dsmoe_eval.cli; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603

"""Files as they should not be."""

import gzip
import os
from pathlib import Path

import pytest

from dsmoe_eval.comparison.readers import files
from dsmoe_eval.comparison.readers.files import by_library, check_file, json_object, json_records
from dsmoe_eval.errors import UserError


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"a": "x\u2028y\u0085z"}\n\n{"a": 2}'.encode())
    assert list(json_records(path)) == [
        (f"{path}, line 1", {"a": "x\u2028y\u0085z"}), (f"{path}, line 3", {"a": 2}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "line 2: not valid JSON .*cut off"),
        (b"[1]", "line 2: expected a JSON object, not list"),
        (b'{"a": "\xff"}', "line 2: not valid JSON"),
        (b"[" * 100_000, "line 2: JSON nested too deeply|line 2: not valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 2: not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"{}\n" + line)
    with pytest.raises(UserError, match=message):
        list(json_records(path))


def test_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    path = tmp_path / "t.jsonl"
    path.write_bytes(b" " * 101)
    with pytest.raises(UserError, match="line 1: longer"):
        list(json_records(path))
    path.write_bytes(b"{}\n" * 5)
    monkeypatch.setattr(files, "MOST_ROWS", 4)
    with pytest.raises(UserError, match="more than 4 lines"):
        list(json_records(path))
    monkeypatch.setattr(files, "MOST_BYTES", 3)
    with pytest.raises(UserError, match="split it"):
        check_file(path)


def test_a_bomb_stops_at_the_longest_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 10_000)
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 10**7))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="line 1: longer"):
        list(json_records(path))


def test_a_truncated_archive_is_told(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 100_000)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read after line"):
        list(json_records(path))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")  # to open it would wait for ever
    with pytest.raises(UserError, match="not a regular file"):
        check_file(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="does not exist"):
        check_file(tmp_path / "none.csv")


def test_what_a_library_raises_becomes_a_sentence(tmp_path):
    def fail():
        raise ArithmeticError("two\nlines")

    with pytest.raises(UserError, match=r"p: cannot be read \(two lines\)"):
        by_library(Path("p"), fail)
    assert json_object(b'{"a": 1}', "p") == {"a": 1}

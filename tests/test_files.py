"""Writes are whole or absent."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import new_folder, read_json, write_json, write_text


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

"""Writes are whole or absent, and a folder belongs to one run."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.runs.folder import new_folder, open_folder, read_json, write_json, write_text


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


def test_a_folder_is_opened_again_for_the_same_run_only(tmp_path):
    root = tmp_path / "run"
    open_folder(root, "name: a\n", {"model": "m", "limit": None})
    open_folder(root, "name: a\n", {"model": "m", "limit": None})
    with pytest.raises(UserError, match="differs in limit"):
        open_folder(root, "name: a\n", {"model": "m", "limit": 3})


def test_a_process_killed_while_it_opened_the_folder_goes_on(tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    (root / ".run.json.00ff.tmp").write_text('{"mod')
    open_folder(root, "name: a\n", {"model": "m"})
    (root / "plan.yaml").unlink()
    assert open_folder(root, "name: a\n", {"model": "m"}).plan.read_text() == "name: a\n"


def test_a_folder_with_other_things_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty and holds no run"):
        open_folder(tmp_path, "", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_json_is_said_so(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match="damaged JSON"):
        read_json(tmp_path / "a.json")

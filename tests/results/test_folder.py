"""A folder belongs to one run."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import read_json
from dsmoe_eval.results.folder import open_folder


def test_a_folder_is_opened_again_for_the_same_run_only(tmp_path):
    root = tmp_path / "run"
    open_folder(root, "name: a\n", {"model": "m", "limit": None})
    open_folder(root, "name: a\n", {"model": "m", "limit": None})
    with pytest.raises(UserError, match="differs in limit"):
        open_folder(root, "name: a\n", {"model": "m", "limit": 3})


def test_another_plan_is_named_by_its_keys(tmp_path):
    plan = {"name": "a", "seed": 0, "targets": ["x"]}
    open_folder(tmp_path / "run", "name: a\n", {"model": "m", "plan": plan})
    other = {"name": "a", "seed": 1, "targets": ["x"], "foretell": True}
    with pytest.raises(UserError, match=r"differs in limit, plan \(foretell, seed\); give"):
        open_folder(tmp_path / "run", "name: a\n", {"model": "m", "plan": other, "limit": 1})


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


def test_case_15_drafts_of_killed_processes_are_removed(tmp_path):
    folder = open_folder(tmp_path, "name: a\n", {"model": "m"})
    draft = folder.root / "cells" / ".0123456789abcdef.00ff.tmp"
    draft.mkdir(parents=True)
    (draft / "samples.parquet").write_bytes(b"PAR1")
    open_folder(tmp_path, "name: a\n", {"model": "m"})
    assert not draft.exists()


def test_case_09_an_edited_plan_or_identity_is_refused(tmp_path):
    folder = open_folder(tmp_path, "name: a\n", {"model": "m"})
    folder.plan.write_text("name: b\n")
    with pytest.raises(UserError, match=r"plan\.yaml: is not the file .* remove .*plan\.yaml and"):
        open_folder(tmp_path, "name: a\n", {"model": "m"})
    folder.plan.unlink()
    assert open_folder(tmp_path, "name: a\n", {"model": "m"}).plan.read_text() == "name: a\n"
    folder.identity.write_text('{"model": "n"}')
    with pytest.raises(UserError, match=r"run\.json: is not the file .* remove .* and run again"):
        open_folder(tmp_path, "name: a\n", {"model": "n"})


def test_case_09_a_process_killed_between_the_first_hash_and_its_file_goes_on(tmp_path):
    folder = open_folder(tmp_path, "name: a\n", {"model": "m"})
    folder.identity.unlink()
    folder.plan.unlink()
    assert open_folder(tmp_path, "name: a\n", {"model": "m"}).plan.is_file()


def test_case_18_a_run_goes_on_with_another_number_of_threads(tmp_path):
    open_folder(tmp_path / "run", "name: a\n", {"model": "m", "threads": 2})
    folder = open_folder(tmp_path / "run", "name: a\n", {"model": "m", "threads": 8})
    assert read_json(folder.identity)["threads"] == 2

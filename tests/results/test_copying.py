"""What of a folder is copied: finished things, checked, and nothing of the work in progress."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_bytes
from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.copying import copy, originals

QUIET = Console(quiet=True)


@pytest.fixture
def unfinished(tmp_path):
    """A run in work: a cell is there, one is recorded and not there yet."""
    folder = RunFolder(tmp_path / "unfinished")
    folder.write_json(folder.identity, {"model": "m"})
    for cell in ("one", "two"):
        with folder.new_folder(folder.cell(cell)) as draft:
            (draft / "cell.json").write_text(cell)
    shutil.rmtree(folder.cell("two"))
    for name in (
        "answers/two.jsonl", "leases/two.0", "workers/a.json",
        "logs/a.jsonl", "merged/x", ".lock", ".draft.tmp", "cells/.three.tmp/cell.json",
        "cells/three/cell.json", "adapters/x/part",
    ):  # fmt: skip
        write_bytes(folder.root / name, b"work")
    write_bytes(folder.log, b"line\n")
    folder.write(folder.counts, b"recorded")
    write_bytes(folder.observations / "pass" / "batch-0.safetensors", b"holds its hash")
    write_bytes(folder.root / "gate" / "verdict.json", b"{}")
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_of_a_run_in_work_only_what_is_finished_is_copied(unfinished, tmp_path):
    found = originals(unfinished.root)
    assert sorted(found) == [
        "cells/one/cell.json", "gate/verdict.json", "log.jsonl", "manifest.json",
        "observations/counts.safetensors", "observations/pass/batch-0.safetensors", "run.json",
    ]  # fmt: skip
    url = f"file://{tmp_path}/bucket"
    copy(str(unfinished.root), url, QUIET)
    copy(url, str(tmp_path / "back"), QUIET)
    back = RunFolder(tmp_path / "back")
    recorded = {"cells/one/cell.json", "observations/counts.safetensors", "run.json"}
    assert back.recorded().keys() == recorded
    for name in back.recorded():
        assert back.digest(back.root / name) == unfinished.recorded()[name]


def test_the_log_of_a_run_in_work_is_copied_up_to_now(unfinished, tmp_path, monkeypatch):
    found = originals(unfinished.root)
    with unfinished.log.open("ab") as log:
        log.write(b"later\n")
    monkeypatch.setattr("dsmoe_eval.results.copying.originals", lambda _: found)
    copy(str(unfinished.root), f"file://{tmp_path}/bucket", QUIET)
    assert (tmp_path / "bucket" / "log.jsonl").read_bytes() == b"line\n"


def test_a_finished_run_comes_back_as_it_was(run, tmp_path):
    write_bytes(tmp_path / "run" / "x", b"")
    source = Path(shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True))
    (source / "x").unlink()
    write_bytes(source / "report" / "index.html", b"<p>")
    done = copy(str(source), f"file://{tmp_path}/bucket/run", QUIET)
    assert copy(str(source), f"file://{tmp_path}/bucket/run", QUIET).moved == 0
    copy(f"file://{tmp_path}/bucket/run", str(tmp_path / "back"), QUIET)
    assert files(tmp_path / "back") == files(source)
    assert done.size == sum(map(len, files(source).values()))
    assert RunFolder(tmp_path / "back").root_hash == RunFolder(source).root_hash
    assert read_finished(tmp_path / "back").result == read_finished(source).result


def test_a_changed_run_is_not_copied(run, unfinished, tmp_path):
    source = Path(shutil.copytree(run, tmp_path / "run"))
    cell = next(source.glob("cells/*/cell.json"))
    cell.write_text("{}")
    with pytest.raises(UserError, match=rf"{cell}: is not the file of the run's manifest.json"):
        copy(str(source), f"file://{tmp_path}/bucket", QUIET)
    assert not (tmp_path / "bucket").exists()
    changed = unfinished.cell("one") / "cell.json"
    changed.write_text("One")
    with pytest.raises(UserError, match=rf"{changed}: was changed .* or is not the file of the"):
        copy(str(unfinished.root), f"file://{tmp_path}/bucket", QUIET)
    assert not (tmp_path / "bucket" / "cells").exists()


def test_runs_in_a_folder_are_copied_as_runs(unfinished, run, tmp_path):
    shutil.copytree(run, tmp_path / "matrix" / "a")
    shutil.copytree(unfinished.root, tmp_path / "matrix" / "b")
    write_bytes(tmp_path / "matrix" / "regression.json", b"{}")
    found = originals(tmp_path / "matrix")
    assert {"a/comparisons.json", "a/manifest.json", "b/manifest.json", "regression.json"} < {
        *found
    }
    assert not [name for name in found if name.startswith(("b/answers", "b/claims"))]
    content = json.loads(found["b/manifest.json"].content)
    assert {"cells/one/cell.json", "run.json"} < content["content"].keys()
    assert "cells/two/cell.json" not in content["content"]


def test_a_finished_run_without_its_adapters_keeps_its_root_hash(run, tmp_path):
    source = RunFolder(Path(shutil.copytree(run, tmp_path / "run")))
    adapter = source.root / "adapters" / "x" / "adapter_model.safetensors"
    source.write(adapter, b"large")
    before = source.root_hash
    adapter.unlink()
    copy(str(source.root), f"file://{tmp_path}/bucket", QUIET)
    copy(f"file://{tmp_path}/bucket", str(tmp_path / "back"), QUIET)
    assert RunFolder(tmp_path / "back").root_hash == before


def test_any_folder_is_copied_between_folders_and_between_urls(tmp_path):
    write_bytes(tmp_path / "report" / "items" / "a.json", b"1")
    write_bytes(tmp_path / "report" / "manifest.txt", b"2")
    expected = files(tmp_path / "report")
    copy(str(tmp_path / "report"), str(tmp_path / "other"), QUIET)
    copy(f"file://{tmp_path}/other", f"file://{tmp_path}/third", QUIET)
    copy(str(tmp_path / "third"), f"file://{tmp_path}/fourth", QUIET)
    copy(f"file://{tmp_path}/fourth", str(tmp_path / "back"), QUIET)
    assert files(tmp_path / "back") == expected


def test_what_is_no_folder_to_copy_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none: is not a folder; give the folder of a run"):
        originals(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no file to copy; check the path"):
        originals(tmp_path)
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(
        UserError, match=r"link: is a link or a device, which is not copied; remove it"
    ):
        originals(tmp_path)

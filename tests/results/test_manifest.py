"""What a run wrote is what is read, or there is an error."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.comparison import compare
from dsmoe_eval.errors import UserError
from dsmoe_eval.files import seal
from dsmoe_eval.leaderboards import add_run
from dsmoe_eval.leaderboards.submission import read_entry
from dsmoe_eval.results.cells import is_done, read_cell, read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.manifest import MANIFEST, RecordedFolder

from ..damage import damaged
from ..recorded import record
from .test_cells import IDENTITY

SAMPLES, CELL = "samples.parquet", "cell.json"


@pytest.fixture
def written(tmp_path):
    """A folder with two files and a folder of one."""
    folder = RecordedFolder(tmp_path / "run")
    folder.write(folder.root / "a.txt", b"one")
    folder.write_json(folder.root / "b" / "c.json", {"two": 2})
    with folder.new_folder(folder.root / "cells" / "d") as draft:
        (draft / "e").write_bytes(b"three")
    return folder


def test_files_are_read_as_they_were_written(written):
    root = written.root
    assert written.read(root / "a.txt") == b"one"
    assert written.read_json(root / "b" / "c.json") == {"two": 2}
    assert written.has(root / "cells" / "d" / "e")
    assert not written.has(root / "nothing")
    written.check()
    before = written.root_hash
    written.write(root / "a.txt", b"one")
    assert written.root_hash == before
    written.write(root / "a.txt", b"other")
    assert written.root_hash != before
    assert record(shutil.copytree(root, root.parent / "copy")) != root
    assert RecordedFolder(root.parent / "copy").root_hash == written.root_hash


@settings(max_examples=150)
@given(st.data())
def test_case_09_any_flip_or_truncation_is_noticed(tmp_path_factory, data):
    folder = RecordedFolder(tmp_path_factory.mktemp("run"))
    contents = {folder.root / "a": b"\x00one", folder.root / "b" / "c": b"two"}
    for path, content in contents.items():
        folder.write(path, content)
    root_hash = folder.root_hash
    path = data.draw(st.sampled_from([*contents, folder.manifest]))
    with damaged(path, data):
        try:
            folder.check()
        except UserError:
            return
        # White space of the manifest is all that may change.
        assert path == folder.manifest
        assert (folder.root_hash, *map(folder.read, contents)) == (root_hash, *contents.values())


def test_case_09_a_file_that_the_run_did_not_write_is_refused(written):
    stranger = written.root / "b" / "stranger.json"
    stranger.write_text("{}")
    for read in (written.has, written.read, written.digest):
        with pytest.raises(UserError, match=r"stranger\.json: is not in the run's manifest\.json"):
            read(stranger)
    (written.root / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a\.txt: cannot be read .*run it again"):
        written.check()


def test_case_09_what_is_missing_is_forgotten_when_a_run_goes_on(written):
    """A process killed between a hash and its file, or a file that was removed to be made again."""
    shutil.rmtree(written.root / "cells" / "d")
    written.check_unfinished()
    written.check()
    with written.new_folder(written.root / "cells" / "d") as draft:
        (draft / "e").write_bytes(b"again")
    (written.root / "a.txt").write_bytes(b"edited")
    with pytest.raises(UserError, match=r"a\.txt: is not the file of the run's manifest\.json"):
        written.check_unfinished()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"content": {}}', json.dumps(seal([1])).encode()]
)
def test_case_09_a_damaged_manifest_is_one_sentence(written, content):
    written.manifest.write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json: damaged, so that no file of") as refused:
        written.check()
    assert "delete it" not in str(refused.value)
    written.manifest.unlink()
    with pytest.raises(UserError, match=r"has no manifest\.json.*run it again in another folder"):
        written.check()


def edit_scores(root: Path):
    path = next(root.glob(f"cells/*/{SAMPLES}"))
    pd.read_parquet(path).assign(score=1.0).to_parquet(path, index=False)


def swap_cells(root: Path):
    first, second = sorted(root.glob("cells/*"))[:2]
    first.rename(root / "aside")
    second.rename(first)
    (root / "aside").rename(second)


def edit_text(name, before, after):
    def edit(root: Path):
        text = (root / name).read_text()
        assert before in text
        (root / name).write_text(text.replace(before, after, 1))

    return edit


EDITS = {
    "scores": (edit_scores, SAMPLES),
    "swapped cells": (swap_cells, CELL),
    "result": (edit_text("comparisons.json", '"gained": 6', '"gained": 7'), "comparisons.json"),
    "plan": (edit_text("plan.yaml", "margin: 0.02", "margin: 0.2"), "plan.yaml"),
    "run": (edit_text("run.json", '"margin": 0.02', '"margin": 0.2'), "run.json"),
    "no manifest": (lambda root: (root / MANIFEST).unlink(), MANIFEST),
}


@pytest.mark.parametrize("name", EDITS)
def test_case_09_an_edited_run_is_read_by_no_command(run, tmp_path, submission, name):
    root = shutil.copytree(run, tmp_path / "run")
    edit, words = EDITS[name]
    edit(root)
    for read in (
        lambda: read_finished(root),  # `report`, `gate`, `leaderboard diff`
        lambda: compare(f"{root}:base", f"{root}:contrast:math"),
        lambda: add_run(root, tmp_path / "boards", submission),
    ):
        with pytest.raises(UserError, match=words):
            read()
    assert not (tmp_path / "boards").exists()


def test_case_09_one_cell_is_checked_too(run, tmp_path):
    root = shutil.copytree(run, tmp_path / "run")
    edit_scores(root)
    cell = next(root.glob("cells/*"))
    with pytest.raises(UserError, match=f"remove .*{cell.name} and run again"):
        compare(str(cell), str(cell))


def test_case_09_a_cells_id_is_computed_again(run, tmp_path):
    """Swapped cells, whose manifest was written anew, are still those of other identities."""
    root = shutil.copytree(run, tmp_path / "run")
    swap_cells(root)
    record(root)
    for cell in sorted((root / "cells").iterdir())[:2]:
        with pytest.raises(UserError, match=f"is not that of cell {cell.name}"):
            read_cell(RunFolder(root), cell.name)


@pytest.mark.parametrize("score", [-0.5, 1.5, float("nan"), float("inf"), None, "1.0x"])
def test_case_09_scores_lie_in_the_range_of_their_metric(run, tmp_path, score):
    root = shutil.copytree(run, tmp_path / "run")
    path = next(root.glob(f"cells/*/{SAMPLES}"))
    rows = pd.read_parquet(path)
    rows.assign(score=[score, *[1.0 if score != "1.0x" else "1"] * (len(rows) - 1)]).to_parquet(
        path
    )
    record(root)
    with pytest.raises(UserError, match=r"a score is not in \[0, 1\]"):
        read_samples(RunFolder(root), path.parent.name)


def test_case_09_the_root_hash_is_filed_with_an_entry(run, tmp_path, submission):
    added = add_run(run, tmp_path, submission)
    for path in added.written:
        assert read_entry(path).results[0].manifest == RunFolder(run).root_hash


def test_case_09_a_cell_of_which_a_part_is_missing_is_made_again(tmp_path):
    folder = RunFolder(tmp_path)
    path = folder.cell(IDENTITY.id)
    for content in (b"first", b"again"):
        assert not is_done(folder, IDENTITY)
        with folder.new_folder(path) as draft:
            for name in (CELL, SAMPLES):
                (draft / name).write_bytes(content)
        assert is_done(folder, IDENTITY)
        (path / SAMPLES).unlink()

"""Several writers in one folder: nothing is lost, nothing is written over, one run is left."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.results import folder as folder_module
from dsmoe_eval.results import manifest
from dsmoe_eval.results.folder import RunFolder, open_folder
from dsmoe_eval.results.manifest import PARTS, RecordedFolder


@pytest.fixture
def opened(tmp_path):
    return open_folder(tmp_path / "run", "name: a\n", {"model": "m"}, "a")


def cell(folder, name, content):
    with folder.new_folder(folder.cell(name)) as draft:
        (draft / "cell.json").write_text(content)


def test_each_writer_reads_what_the_others_wrote(opened):
    other = RunFolder(opened.root, "b")
    cell(opened, "1", "one")
    other.write(opened.root / "tuning" / "t.json", b"two")
    for reader in (opened, other, RunFolder(opened.root)):
        assert reader.read(opened.cell("1") / "cell.json") == b"one"
        assert reader.read(opened.root / "tuning" / "t.json") == b"two"
    assert not opened.manifest.exists()


def test_the_first_finished_cell_stays(opened, caplog):
    caplog.set_level("INFO", logger="dsmoe_eval")
    with RunFolder(opened.root, "b").new_folder(opened.cell("1")) as draft:
        (draft / "cell.json").write_text("late")
        cell(opened, "1", "early")
    assert opened.read(opened.cell("1") / "cell.json") == b"early"
    assert [one.message for one in caplog.records] == [manifest.TWICE]
    assert [path.name for path in opened.cell("1").parent.iterdir()] == ["1"]


def test_a_cell_that_appears_in_the_last_moment_stays_too(opened, monkeypatch):
    """Between the look whether it is there and the rename."""
    other = RunFolder(opened.root, "b")
    look = RecordedFolder.has

    def late(self, path):
        there = look(self, path)
        if self is other and not there:
            monkeypatch.setattr(RecordedFolder, "has", look)
            cell(opened, "1", "early")
        return there

    monkeypatch.setattr(RecordedFolder, "has", late)
    cell(other, "1", "late")
    monkeypatch.undo()
    assert opened.read(opened.cell("1") / "cell.json") == b"early"


def test_a_cell_of_which_a_file_was_removed_is_made_again(opened, caplog):
    caplog.set_level("INFO", logger="dsmoe_eval")
    cell(opened, "1", "one")
    (opened.cell("1") / "notes").write_text("no file of the run")
    (opened.cell("1") / "cell.json").unlink()
    cell(RunFolder(opened.root, "b"), "1", "two")
    assert opened.read(opened.cell("1") / "cell.json") == b"two"
    assert caplog.records == []


def test_a_run_that_another_begins_while_the_folder_is_looked_at_is_no_other_thing(
    tmp_path, monkeypatch
):
    """Shards start at once: between two looks the first of them may have written its files."""

    def begun(_path):
        (tmp_path / "run.json").write_text("{}")
        return False

    (tmp_path / "plan.yaml").touch()
    monkeypatch.setattr(folder_module, "_is_unfinished", begun)
    folder_module.check_free(tmp_path)


def test_a_change_is_noticed_and_said_after_the_others_had_time(opened, monkeypatch):
    monkeypatch.setattr(manifest, "_PATIENCE", 0.2)
    cell(opened, "1", "one")
    (opened.cell("1") / "cell.json").write_text("two")
    for reader in (opened, RunFolder(opened.root, "b"), RunFolder(opened.root)):
        with pytest.raises(UserError, match=r"is not the file of the run's manifest"):
            reader.read(opened.cell("1") / "cell.json")


def test_a_part_that_arrives_late_is_waited_for(opened, tmp_path):
    """Another machine's manifest may be seen after its file."""
    cell(RunFolder(opened.root, "b"), "1", "one")
    part, aside = opened.root / PARTS / "b.json", tmp_path / "b.json"
    part.rename(aside)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(opened.read, opened.cell("1") / "cell.json")
        with pytest.raises(TimeoutError):
            read.result(timeout=0.5)
        aside.rename(part)
        assert read.result(timeout=20) == b"one"


def test_what_several_left_is_the_folder_of_one(opened):
    cell(opened, "1", "one")
    other = RunFolder(opened.root, "b")
    other.write(opened.root / "t.json", b"other")
    opened.write(opened.root / "t.json", b"mine")
    for folder, times in ((opened, (1, 4)), (other, (2, 3))):
        folder.log.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"time": f"2026-01-01T00:00:0{second}"}) for second in times]
        folder.log.write_text("\n".join(lines) + '\n{"time": "cut')
        folder.answers("2").parent.mkdir(exist_ok=True)
    other.answers("2").write_text("a\nb\n")
    opened.answers("2").write_text("a\n")
    opened.lease("1", 0).parent.mkdir()
    opened.lease("1", 0).write_text("a")
    opened.workers.mkdir()
    opened.worker("a").write_text("{}")
    whole = open_folder(opened.root, "name: a\n", {"model": "m"})
    whole.check()
    assert whole.read(whole.root / "t.json") == b"mine"
    lines = [json.loads(line) for line in whole.log.read_text().splitlines()]
    assert [line["time"][-1] for line in lines] == [*"1234"]
    assert whole.answers("2").read_text() == "a\nb\n"
    files = {"run.json", "plan.yaml", "manifest.json", "cells", "t.json", "log.jsonl", "answers"}
    assert {path.name for path in whole.root.iterdir()} - {"workers"} == files
    assert not any(whole.workers.glob("*"))
    assert len(list((whole.root / "answers").iterdir())) == 1


def test_a_worker_goes_on_with_the_answers_of_another(opened):
    other = RunFolder(opened.root, "b")
    opened.answers("2").parent.mkdir()
    opened.answers("2").write_text("one\n")
    assert other.answers("2").read_text() == "one\n"
    assert other.answers("2") != opened.answers("2")
    other.forget_answers("2")
    assert not any((opened.root / "answers").iterdir())


def test_answers_of_an_owner_with_a_longer_name_stay(opened):
    """`dsmoe` has finished its tuning, and `dsmoe-code` has not."""
    folder = opened.root / "answers"
    folder.mkdir()
    for owner in ("m--dsmoe", "m--dsmoe--1", "m--dsmoe--2@b", "m--dsmoe-code--1", "m--dsmoe-code"):
        (folder / f"{owner}.jsonl").write_text("one\n")
    opened.forget_answers("m--dsmoe")
    assert {path.stem for path in folder.iterdir()} == {"m--dsmoe-code--1", "m--dsmoe-code"}


WRITES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.binary(max_size=3)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(WRITES)
def test_whoever_writes_all_files_are_right_in_the_end(tmp_path_factory, writes):
    root = tmp_path_factory.mktemp("run")
    content = {}
    for writer, name, data in writes:
        RecordedFolder(root, writer).write(root / name, data)
        content[name] = data
    one = RecordedFolder(root)
    one.absorb()
    assert not (root / PARTS).exists()
    if content:
        one.check()
        assert {name: one.read(root / name) for name in content} == content
        assert set(one.recorded()) == set(content)

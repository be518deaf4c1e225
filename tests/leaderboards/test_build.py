"""What is rendered follows from the entries, and from the very samples that they came from."""

import re
import shutil

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.leaderboards import add_run, build, check_leaderboards
from dsmoe_eval.leaderboards.build import aligned
from dsmoe_eval.leaderboards.checks import read_entries
from dsmoe_eval.reports.table import Cell, Column, Row, Table

from ..recorded import record
from .conftest import SMALL


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_same_entries_give_the_same_bytes(board, run, make_run, tmp_path):
    other = shutil.copytree(board, tmp_path / "elsewhere" / "x")
    built = build(board, [run, make_run(seed=1)])
    again = build(other, [run, make_run(seed=1)])
    assert contents(board) == contents(other)
    assert (built.items, built.without) == (again.items, ())
    assert {"README.md", "index.html", "subjects.png"} <= set(contents(board))
    assert all((board / one.path).is_file() for one in built.items)
    assert len(built.items) == 2 * 4  # runs, tasks
    assert check_leaderboards(board) == []


def test_pages_name_the_entries_that_they_are_of(board):
    for name in ("README.md", "index.html"):
        assert f"entries {read_entries(board).stamp}" in (board / name).read_text()


def test_runs_that_are_not_at_hand_are_named(board, run):
    built = build(board, [run])
    assert len(built.items) == 4
    (name,) = built.without
    assert re.fullmatch(r"subjects/lab__moe-7b/ab12ab12ab12 \(run [0-9a-f]{16}\)", name)
    assert name in (board / "index.html").read_text()


def test_a_run_whose_samples_changed_is_refused(board, run, tmp_path):
    before = contents(board)
    copy = shutil.copytree(run, tmp_path / "copy")
    path = next(copy.glob("cells/*/samples.parquet"))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="was changed after the run wrote it"):
        build(board, [copy])
    record(copy)
    words = rf"{path.parent.name}: its samples are not those that were submitted.*add --reason"
    with pytest.raises(UserError, match=words):
        build(board, [copy])
    path.unlink()
    with pytest.raises(UserError, match=r"samples\.parquet: cannot be read"):
        build(board, [copy])
    assert contents(board) == before


def test_a_run_that_was_not_filed_is_refused(board, make_run):
    with pytest.raises(UserError, match="is no run that was submitted; add it first"):
        build(board, [make_run(**SMALL)])


def test_plans_that_share_their_cells_are_told_apart(make_run, file_runs, tmp_path):
    runs = make_run(**SMALL), make_run(**SMALL, margin=0.05, plan="wide")
    cells = [{path.name for path in (one / "cells").iterdir()} for one in runs]
    assert cells[0] == cells[1]
    root = file_runs(tmp_path, *runs)
    built = build(root, runs)
    assert built.without == ()
    assert len({one.path for one in built.items}) == 2 * len(SMALL["domains"])


def test_nothing_is_rendered_of_what_cannot_be_read(board, folder, tmp_path):
    (folder / "sham.json").write_text("{")
    with pytest.raises(UserError, match=r"sham\.json.*see leaderboard check"):
        build(board)
    with pytest.raises(UserError, match="no folder of leaderboards"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no result; submit a run first"):
        build(tmp_path / "empty")


def test_a_variants_file_that_is_missing_is_named(board, folder):
    (folder / "random.json").unlink()
    with pytest.raises(UserError, match=r"missing-variant: .*random\.json"):
        build(board)


def test_what_was_filed_again_is_shown_with_its_own_samples(board, run, tmp_path, submission):
    again = shutil.copytree(run, tmp_path / "again")
    for path in again.glob("cells/*/samples.parquet"):
        pd.read_parquet(path).to_parquet(path, index=False, compression="gzip")
    record(again)
    with pytest.raises(UserError, match="restore them, or submit the run again"):
        build(board, [again])
    add_run(again, board, submission.model_copy(update={"reason": "another machine"}))
    assert len(build(board, [again]).without) == 1
    assert check_leaderboards(board) == []


TEXT = st.text(st.sampled_from("ab|\\<\n `&"), max_size=8)


@given(st.lists(st.lists(TEXT, min_size=3, max_size=3), max_size=4))
def test_no_text_ends_a_column_early_or_is_markup(rows):
    columns = (Column("a"), Column("b", numeric=True), Column("c|d"))
    cells = tuple(Row(tuple(Cell(text) for text in row)) for row in rows)
    lines = aligned(Table("t", "", columns, cells)).split("\n")
    assert len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1
    for line in lines:
        bars, escaped = 0, False
        for character in line:
            bars += character == "|" and not escaped
            escaped = character == "\\" and not escaped
        assert bars == 4
        assert "<" not in line

"""A run's answers give its result again; what does not fit together is refused."""

import json
import shutil

import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_json
from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.recompute import cell_faults, recompute

from ..leaderboards.conftest import SMALL
from ..recorded import record

TINY = SMALL | {"variants": ("base", "contrast", "random")}
KINDS = (
    {}, {"samples": 2, "paired": True}, {"leaked": 3, "limit": 5},
    {"texts": True, "outcome": "gold_logprob"},
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_result_is_that_of_the_run(make_run, kind):
    folder = RunFolder(make_run(**TINY, **kind))
    result = recompute(folder)
    assert result == read_finished(folder.root).result
    assert list(cell_faults(folder, result)) == []


@pytest.fixture
def copy(make_run, tmp_path):
    return RunFolder(shutil.copytree(make_run(**TINY), tmp_path / "copy"))


def changed(folder, change):
    stated = json.loads(folder.comparisons.read_text())
    change(stated)
    write_json(folder.comparisons, stated)
    record(folder.root)
    return folder


def test_no_figure_of_the_comparisons_is_believed(copy):
    before = read_finished(copy.root).result

    def change(stated):
        stated["base"][0] |= {"score": 0.123, "n": 7, "domain": "elsewhere", "ci95": None}
        stated["arms"][0]["target_result"] |= {"score_a": 0.123, "p_value": 0.5}
        stated["arms"][0]["probe"] = None
        stated["margin"] = 0.5
        stated["run"]["model"] = "another"

    changed(copy, change)
    assert recompute(copy) == before


def test_cells_that_lack_a_task_are_refused(copy):
    def change(stated):
        stated["base"][0]["role"] = "non-target"

    with pytest.raises(UserError, match=r"the arm contrast on math has cells of .*run it again"):
        recompute(changed(copy, change))


def test_items_of_two_domains_are_refused(copy):
    cell = copy.cell(read_finished(copy.root).result.base[0].cell) / "samples.parquet"
    rows = pd.read_parquet(cell)
    rows.loc[0, "domain"] = "another"
    rows.to_parquet(cell, index=False)
    record(copy.root)
    with pytest.raises(UserError, match=r"samples\.parquet: has items of 2 domains"):
        recompute(copy)

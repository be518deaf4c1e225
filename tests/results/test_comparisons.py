"""The figures of a run's arms, against means of the cells' rows."""

import pytest

from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.cells import read_samples

from ..leaderboards.conftest import SMALL

TINY = SMALL | {"variants": ("base", "contrast", "random")}


def test_scores_are_means_of_rows(make_run):
    folder = RunFolder(make_run(**TINY))
    result = read_finished(folder.root).result
    base = {one.task: one.cell for one in result.base}
    for arm in result.arms:
        rows = {name: read_samples(folder, cell) for name, cell in arm.cells.items()}
        before = {name: read_samples(folder, base[name]) for name in rows}
        (target,) = set(rows) - {one.task for one in arm.domains}
        found = arm.target_result
        assert found.score_b == pytest.approx(rows[target]["score"].mean())
        assert found.score_a == pytest.approx(before[target]["score"].mean())
        assert found.gained - found.lost == (rows[target]["score"] - before[target]["score"]).sum()
        for one in arm.domains:
            assert one.score_b == pytest.approx(rows[one.task]["score"].mean())
            assert one.n == len(rows[one.task])

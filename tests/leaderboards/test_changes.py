"""What moved between two results is found, and nothing else."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from scipy.stats import norm

from dsmoe_eval.errors import UserError
from dsmoe_eval.leaderboards import differences, read_result
from dsmoe_eval.leaderboards.changes import ALPHA
from dsmoe_eval.results.finished import as_finished
from dsmoe_eval.stats import holm

from ..recorded import record
from .conftest import SMALL

FIGURES = {"target_gain", "non_target_change"}


def edited(result, change):
    data = result.result.model_dump(mode="json")
    change(data)
    return replace(as_finished(data, result.name + " changed"), folder=None)


@pytest.fixture(scope="module")
def two(make_run):
    """The same answers but for contrast, which gains less."""
    less = {"contrast": (0.05, 0.04), "random": (0.02, 0.03)}
    common = SMALL | {"items": 300, "variants": ("base", "sham", "contrast", "random")}
    before = make_run(**common, target=less | {"contrast": (0.25, 0.02)})
    return read_result(str(before)), read_result(str(make_run(**common, target=less)))


def test_between_a_run_and_itself_nothing_moved(run, board, folder):
    submission = read_result(
        f"{folder}:{json.loads((folder / 'base.json').read_text())['results'][0]['run_id']}"
    )
    of_folder = read_result(str(run))
    for after in (of_folder, submission):
        found = differences(of_folder, after)
        assert len(found.changes) == 2 * 5 * 2  # arms, figures
        assert {row.metric for row in found.changes} == FIGURES
        assert not any(row.moved for row in found.changes)
        assert all(
            abs(row.change) < 1e-8 and row.p_adjusted == pytest.approx(1) for row in found.changes
        )
        assert (found.only_before, found.only_after, found.missing) == ((), (), ())
    assert all(row.then == pytest.approx(row.now) for row in found.changes)


def test_a_planted_change_is_found_and_no_other(two):
    found = differences(*two)
    (row,) = (row for row in found.changes if row.moved)
    assert (row.variant, row.target, row.metric) == ("contrast", "math", "target_gain")
    assert (row.then, row.now) == (pytest.approx(0.23), pytest.approx(0.01, abs=0.004))
    assert row.change == pytest.approx(row.now - row.then)
    assert row.low < row.change < row.high < 0
    assert row.how.startswith("item by item")


def test_without_samples_intervals_tell(two):
    found = differences(*(replace(one, folder=None) for one in two))
    (row,) = (row for row in found.changes if row.moved)
    then, now = (one.arms["contrast", "math"].target_result for one in two)
    down = ((now.delta - now.ci95[0]) ** 2 + (then.ci95[1] - then.delta) ** 2) ** 0.5
    assert row.low == pytest.approx(row.change - down)  # MOVER
    assert row.how.startswith("by intervals")


def test_the_rows_are_one_family_by_holm(two):
    found = differences(*(replace(one, folder=None) for one in two))
    raw = []
    for row in found.changes:
        reach = row.change - row.low if row.change > 0 else row.high - row.change
        raw.append(2 * norm.sf(norm.isf(0.025) * abs(row.change) / reach) if row.change else 1.0)
    assert [row.p_adjusted for row in found.changes] == pytest.approx(list(holm(raw)), rel=1e-5)
    assert all(row.moved == (row.p_adjusted <= ALPHA) for row in found.changes)
    assert any(p < row.p_adjusted < 1 for p, row in zip(raw, found.changes, strict=True))


def test_arms_of_one_result_only(two):
    def without(variant):
        def change(data):
            data["variants"].remove(variant)
            data["arms"] = [arm for arm in data["arms"] if arm["variant"] != variant]

        return change

    found = differences(edited(two[0], without("random")), edited(two[1], without("contrast")))
    assert (found.only_before, found.only_after) == (("contrast on math",), ("random on math",))
    assert {row.variant for row in found.changes} == {"sham"}


def test_a_change_that_cannot_be_told_is_named(two, tmp_path):
    copies = []
    for number, one in enumerate(two):
        root = shutil.copytree(one.folder.root, tmp_path / str(number))
        for path in root.glob("cells/*/samples.parquet"):
            pd.read_parquet(path).assign(cluster="the only one").to_parquet(path)
        record(root)
        copies.append(read_result(str(root)))
    found = differences(*copies)
    words = "target_gain of contrast on math: the items are one cluster, so nothing can be said"
    assert any(one.startswith(words) for one in found.missing)


def test_two_suites_are_not_compared(two):
    with pytest.raises(UserError, match=r"is of suite subjects, .* of other"):
        differences(two[0], edited(two[1], lambda data: data["run"].update(suite="other")))


def test_two_versions_of_a_task_are_not_compared(two):
    def change(data):
        data["base"][0]["version"] = "0" * 16

    with pytest.raises(UserError, match=r"'math_task' is of two versions .*run one of them again"):
        differences(two[0], edited(two[1], change))


def test_of_several_runs_the_last_or_the_one_that_is_named(board, folder):
    ids = [one["run_id"] for one in json.loads((folder / "base.json").read_text())["results"]]
    assert read_result(str(folder)).result.seed == 1
    for seed, name in enumerate(ids):
        assert read_result(f"{folder}:{name[:8]}").result.seed == seed
    with pytest.raises(UserError, match=f"no such run; there are {', '.join(ids)}"):
        read_result(f"{folder}:zzz")


def test_a_broken_file_of_the_revision_is_named(folder):
    (folder / "sham.json").write_text("{")
    with pytest.raises(UserError, match=r"sham\.json.*see leaderboard check"):
        read_result(str(folder))


def test_a_broken_file_elsewhere_is_not_in_the_way(board, folder):
    other = board / "subjects" / "other" / ("0" * 12)
    shutil.copytree(folder, other)
    (other / "sham.json").write_text("{")
    assert read_result(str(folder)).result.seed == 1


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="finish the run first"):
        read_result(str(tmp_path))

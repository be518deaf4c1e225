"""A figure of an entry that its run's answers do not give is found, whichever it is."""

import json
import shutil

import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_json
from dsmoe_eval.leaderboards import verify
from dsmoe_eval.leaderboards.submission import parse_entry, read_entry, to_text
from dsmoe_eval.leaderboards.verify import RecomputedRun
from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.recompute import recompute

from ..recorded import record
from .conftest import SMALL
from .test_consistency import numbers

TINY = SMALL | {"variants": ("base", "contrast", "random")}
KINDS = {"binary": {}, "sampled": {"samples": 2, "paired": True}}
"""What a run's answers are: single ones, or means of samples to items that share a question."""


def filed(file_runs, root, run, variant="contrast"):
    """A board with a run, and the file of one of its variants."""
    return next(file_runs(root, run).glob(f"*/*/*/{variant}.json"))


@pytest.fixture
def small(make_run):
    return make_run(**TINY)


@pytest.fixture
def entry(file_runs, small, tmp_path):
    return filed(file_runs, tmp_path / "board", small)


@pytest.fixture(scope="module")
def verified(make_run):
    """Compare an entry of the small run, which is computed again once."""
    own = RecomputedRun(RunFolder(make_run(**TINY)))
    return lambda path: own.compare(path, read_entry(path), 0)


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content["results"][0])
    path.write_text(to_text(content))
    return path


def holder(value, path):
    for key in path[:-1]:
        value = value[key]
    return value, path[-1]


def test_every_entry_of_a_run_passes(small, entry):
    found = verify([entry.parent], [small])
    assert len(found) == 3  # variants, base among them
    for one in found:
        base = one.entry.endswith("base.json")
        assert one.differences == ()
        assert one.arms == (0 if base else 1)
        # Base has answered three tasks of 120 items, and each arm as well.
        assert one.items == 360 * (1 if base else 2)
        assert one.figures > (12 if base else 60)


@pytest.fixture(scope="module", params=list(KINDS))
def own(request, make_run):
    """A run of one kind, computed again."""
    return RecomputedRun(RunFolder(make_run(**TINY, **KINDS[request.param])))


@pytest.mark.parametrize("variant", ["base", "contrast"])
def test_each_number_that_is_changed_is_found(own, variant, file_runs, tmp_path):
    path = filed(file_runs, tmp_path, own.folder.root, variant)
    text = path.read_text()
    places = list(numbers(json.loads(text)["results"][0]))
    assert len(places) > (15 if variant == "base" else 80)
    for place in places:
        content = json.loads(text)
        where, key = holder(content["results"][0], place)
        before = where[key]
        # The last of the nine digits; of 0 and 1 towards the middle, as the schema wants it.
        where[key] = before + 1 if isinstance(before, int) else before * (1 - 1e-8) or 1e-12
        (one,) = own.compare(path, parse_entry(to_text(content).encode()), 0).differences
        assert (one.stored, one.recomputed) == (where[key], before), place
        assert one.path.endswith(str(key)) or f"[{key}]" in one.path


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (("arms", 0, "target_result", "p_value"), "arms[math].target_result.p_value"),
        (("arms", 0, "target_result", "p_adjusted"), "arms[math].target_result.p_adjusted"),
        (("arms", 0, "target_result", "score_b"), "arms[math].target_result.score_b"),
        (("arms", 0, "non_targets", "ci95", 0), "arms[math].non_targets.ci95[0]"),
        (("arms", 0, "domains", 1, "ci95", 1), "arms[math].domains[poetry_task].ci95[1]"),
        (("arms", 0, "over_placebo", "p_value"), "arms[math].over_placebo.p_value"),
        (("base", 0, "score"), "base[math_task].score"),
        (("samples", ...), "samples."),
        (("manifest",), "manifest"),
        (("run_id",), "run_id"),
    ],
)
def test_the_path_and_both_figures_are_named(entry, verified, place, path):
    def change(result):
        places = [next(iter(result["samples"])) if key is ... else key for key in place]
        where, key = holder(result, places)
        where[key] = "0" * len(where[key]) if isinstance(where[key], str) else where[key] * 0.99

    (one,) = verified(rewritten(entry, change)).differences
    assert one.path.startswith(f"results[0].{path}")
    assert one.stored != one.recomputed
    assert str(one) == f"{one.path}: stored {one.stored}, recomputed {one.recomputed}"


def test_what_is_missing_is_found(entry, verified):
    rewritten(entry, lambda result: result["arms"][0].update(over_placebo=None))
    found = verified(entry)
    assert {one.stored for one in found.differences} == {None, "absent"}
    assert all("over_placebo" in one.path for one in found.differences)


def turned(run, to):
    """The run with one answer of base turned round."""
    copy = shutil.copytree(run, to)
    base = json.loads((copy / "comparisons.json").read_text())["base"][0]
    path = copy / "cells" / base["cell"] / "samples.parquet"
    rows = pd.read_parquet(path)
    rows.loc[3, "score"] = 1 - rows.loc[3, "score"]
    rows.to_parquet(path, index=False)
    return copy, path


def test_a_sample_that_was_changed_is_found(entry, small, tmp_path):
    copy, path = turned(small, tmp_path / "copy")
    with pytest.raises(UserError, match=rf"{path.parent.name}.*was changed after the run wrote it"):
        verify([entry], [copy])
    record(copy)
    (found,) = verify([entry], [copy])
    paths = {one.path.removeprefix("results[0].") for one in found.differences}
    figures = {"base[math_task].score", "arms[math].target_result.score_a"}
    assert figures | {"manifest"} <= paths


def test_nor_do_forged_hashes_hide_it(file_runs, small, tmp_path):
    """Who turns an answer and files the run again has figures that its answers do not give."""
    copy, _ = turned(small, tmp_path / "copy")
    entry = filed(file_runs, tmp_path / "board", record(copy))
    (found,) = verify([entry], [copy])
    paths = {one.path.removeprefix("results[0].") for one in found.differences}
    assert "base[math_task].score" in paths
    assert all(path.startswith(("base[", "arms[")) for path in paths)


def test_cells_of_another_arm_are_found(file_runs, small, tmp_path):
    """An arm that is given another's answers, with all figures and hashes of those."""
    copy = RunFolder(shutil.copytree(small, tmp_path / "copy"))
    stated = json.loads(copy.comparisons.read_text())
    arms = {arm["variant"]: arm for arm in stated["arms"]}
    arms["random"]["cells"] = arms["contrast"]["cells"]
    write_json(copy.comparisons, stated)
    record(copy.root)
    write_json(copy.comparisons, recompute(copy).model_dump(mode="json"))
    entry = filed(file_runs, tmp_path / "board", record(copy.root), "random")
    (found,) = verify([entry], [copy.root])
    paths = {one.path: (one.stored, one.recomputed) for one in found.differences}
    for task in ("math_task", "law_task", "poetry_task"):
        where = f"results[0].arms[math].cells[{task}]: variant"
        assert paths[where] == ("random", "contrast")
    assert all(".cells[" in path for path in paths)


def test_runs_are_searched_by_hash_and_by_id(entry, small, make_run, tmp_path):
    other = make_run(**TINY, seed=1)
    folder = tmp_path / "runs"
    for name, run in {"a": other, "b": small}.items():
        shutil.copytree(run, folder / name)
    (found,) = verify([entry], [folder])
    assert (found.run, found.differences) == (str(folder / "b"), ())
    rewritten(entry, lambda result: result.pop("manifest"))
    (found,) = verify([entry], [folder])
    assert found.run == str(folder / "b")
    assert [one.path for one in found.differences] == ["results[0].manifest"]
    with pytest.raises(UserError, match=r"contrast\.json: no folder that was given holds its run"):
        verify([entry], [other])
    with pytest.raises(UserError, match="board: no finished run"):
        verify([entry], [tmp_path / "board"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no entry"):
        verify([tmp_path / "empty"], [small])


def test_a_result_whose_run_is_not_at_hand_is_said_to_be_unchecked(
    file_runs, small, make_run, tmp_path
):
    board = file_runs(tmp_path, small, make_run(**TINY, seed=1))
    checked, other = verify([next(board.glob("*/*/*/contrast.json"))], [small])
    assert (checked.run, other.run) == (str(small), None)
    assert (other.figures, other.differences) == (0, ())


def test_an_entry_of_another_variant_or_model_is_found(entry, verified):
    content = json.loads(entry.read_text())
    entry.write_text(to_text(content | {"revision": "0" * 12}))
    assert [one.path for one in verified(entry).differences] == ["revision"]
    entry.write_text(to_text(content | {"variant": "dsmoe"}))
    with pytest.raises(UserError, match=r"is of variant dsmoe, which run .* does not have"):
        verified(entry)

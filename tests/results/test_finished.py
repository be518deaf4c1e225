"""A result that is not whole or not sound is refused, in a sentence."""

import copy
import json

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.results.finished import as_finished, read_finished

from ..gates.conftest import whole_result
from ..recorded import record


def arm(data, variant="contrast", target="math"):
    return next(a for a in data["arms"] if (a["variant"], a["target"]) == (variant, target))


def test_a_whole_result():
    result = as_finished(whole_result(), "r")
    assert list(result.arms)[:2] == [("sham", "math"), ("contrast", "math")]
    assert [variant.name for variant in result.variants][:2] == ["sham", "contrast"]
    assert result.result.family == "2 target claims, Holm"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 4}, r"another version \(schema 4, this one reads 7\)"),
        (
            {"variants": ["sham", "contrast", "random", "wrong-domain", "rice"]},
            "lacks the arm rice on math",
        ),
        ({"variants": ["sham"]}, "is not one of the run's"),
        ({"variants": ["sham", "alchemy"]}, r"variants\.1: no variant 'alchemy'"),
        ({"variants": [["sham"]]}, r"variants\.0: Input should be a valid string"),
        ({"targets": []}, "targets: Tuple should have at least 1 item"),
        ({"arms": None}, "arms: Input should be a valid array"),
        ({"arms": ["contrast"]}, r"arms\.0: Input should be an object"),
        ({"run": None}, "run: Input should be an object"),
        ({"margin": 0.0}, "margin: Input should be greater than 0"),
        ({"suite": "x"}, "suite: Extra inputs are not permitted"),
    ],
)
def test_an_outline_that_is_not_whole(change, words):
    with pytest.raises(UserError, match=rf"^r: comparisons\.json.* {words}.*; run it again"):
        as_finished(whole_result() | change, "r")


def test_an_arm_that_is_there_twice():
    data = whole_result()
    data["arms"].append(data["arms"][0])
    with pytest.raises(UserError, match="is there twice"):
        as_finished(data, "r")


@pytest.mark.parametrize("how", ["twice", "new", "gone", "none"])
def test_an_arm_without_one_of_its_domains(how):
    data = whole_result()
    rows = arm(data)["domains"]
    if how == "twice":
        rows[1] = copy.deepcopy(rows[0])
    elif how == "new":
        rows[1]["task"] = "new"
    else:
        del rows[0 if how == "none" else 1 :]
    words = "at least 1 item" if how == "none" else "the domains of arm contrast on math"
    with pytest.raises(UserError, match=words):
        as_finished(data, "r")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("ci95", [0.2, 0.1], "the interval ends at 0.1, before it begins at 0.2"),
        ("ci95", [0.1], "ci95"),
        ("score_a", float("nan"), "score_a: Input should be a finite number"),
        ("delta", 0.2, "delta: Extra inputs"),
        ("n", 0, "n: Input should be greater than or equal to 1"),
    ],
)
def test_a_figure_that_is_none(place, value, words):
    data = whole_result()
    arm(data)["target_result"][place] = value
    with pytest.raises(UserError, match=rf"arms\.1\.target_result\..*{words}"):
        as_finished(data, "r")


def test_a_path_in_place_of_a_cell_is_refused():
    data = whole_result()
    arm(data)["cells"]["math_task"] = "../../elsewhere"
    with pytest.raises(UserError, match=r"cells\.math_task: String should match"):
        as_finished(data, "r")


def test_leaked_items_are_as_many_as_is_said():
    data = whole_result()
    names = ("rule", "split", "task", "item", "other_split", "other_task", "other_item")
    data["leakage"] |= {"pairs": 2, "items": [dict.fromkeys(names, "x") | {"similarity": 1.0}]}
    with pytest.raises(UserError, match="1 items are named of 2 pairs"):
        as_finished(data, "r")


@pytest.mark.parametrize("text", ["[1]", "null", "3", "{}"])
def test_a_file_that_holds_something_else(tmp_path, text):
    (tmp_path / "comparisons.json").write_text(text)
    with pytest.raises(UserError, match="another version"):
        read_finished(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 200_000, b""])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "comparisons.json").write_bytes(content)
    with pytest.raises(UserError, match="damaged JSON"):
        read_finished(tmp_path)


def test_text_that_is_none_is_refused(tmp_path):
    text = json.dumps(whole_result() | {"plan": "a lone \ud800"})
    (tmp_path / "comparisons.json").write_text(text)
    with pytest.raises(UserError, match=r"comparisons\.json: .*run it again"):
        read_finished(tmp_path)


def test_a_folder_or_a_file(tmp_path):
    with pytest.raises(UserError, match=r"has no comparisons\.json"):
        read_finished(tmp_path)
    path = tmp_path / "comparisons.json"
    path.write_text(json.dumps(whole_result()))
    assert read_finished(path).folder is None
    (tmp_path / "cells").mkdir()
    record(tmp_path)
    assert read_finished(path).folder.root == read_finished(tmp_path).folder.root == tmp_path

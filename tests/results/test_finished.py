"""A result whose outline is not whole is refused."""

import copy
import json

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.results.comparisons import SCHEMA_VERSION
from dsmoe_eval.results.finished import as_finished, read_finished


def arm(variant, target):
    cells = {"own": "x", "other": "y"}
    return {"variant": variant, "target": target, "cells": cells, "domains": [{"task": "other"}]}


def whole():
    return {
        "schema_version": SCHEMA_VERSION,
        "variants": ["sham", "contrast"],
        "targets": ["math"],
        "run": {},
        "arms": [arm("sham", "math"), arm("contrast", "math")],
    }


def test_a_whole_result():
    result = as_finished(whole(), "r")
    assert list(result.arms) == [("sham", "math"), ("contrast", "math")]
    assert [variant.name for variant in result.variants] == ["sham", "contrast"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, r"another version \(schema 2, this one reads"),
        ({"variants": ["sham", "contrast", "random"]}, "lacks the arm random on math"),
        ({"variants": ["sham"]}, "is not one of the run's"),
        ({"variants": ["sham", "alchemy"]}, "no variant 'alchemy'"),
        ({"variants": [["sham"]]}, "'variants' is missing or damaged"),
        ({"targets": []}, "'targets' is missing or damaged"),
        ({"arms": None}, "lacks the arm"),
        ({"arms": [arm("sham", "math")] * 2}, "is there twice"),
        ({"arms": ["contrast"]}, "is not one of the run's"),
        ({"run": None}, "'run' is missing"),
    ],
)
def test_an_outline_that_is_not_whole(change, words):
    with pytest.raises(UserError, match=words):
        as_finished(whole() | change, "r")


@pytest.mark.parametrize(
    "domains", [None, [], [{}], ["other"], [{"task": "other"}] * 2, [{"task": "new"}]]
)
def test_an_arm_without_one_of_its_domains(domains):
    data = copy.deepcopy(whole())
    data["arms"][1]["domains"] = domains
    with pytest.raises(UserError, match="the domains of arm contrast on math"):
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


def test_a_folder_or_a_file(tmp_path):
    with pytest.raises(UserError, match=r"has no comparisons\.json"):
        read_finished(tmp_path)
    path = tmp_path / "comparisons.json"
    path.write_text(json.dumps(whole()))
    assert read_finished(tmp_path).folder is None
    (tmp_path / "cells").mkdir()
    assert read_finished(path).folder.root == read_finished(tmp_path).folder.root == tmp_path

"""What is filed is what the run said, and nothing else can be read as it."""

import json
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.leaderboards.entries import folder_name, run_id
from dsmoe_eval.leaderboards.submission import add_run, to_text


def nine_digits(value):
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-8, abs=1e-300)
    if isinstance(value, dict):
        return {name: nine_digits(one) for name, one in value.items()}
    return [nine_digits(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"samples": 2, "paired": True, "items": 60},
        {"leaked": 3, "items": 40, "generated": None},
    ],
    ids=["plain", "sampled", "leaked"],
)
def test_an_entry_is_the_run_to_nine_digits(make_run, runs_of, tmp_path, submission, changes):
    run = make_run(**changes)
    add_run(run, tmp_path, submission)
    (submitted,) = runs_of(tmp_path)
    told = json.loads((run / "comparisons.json").read_text())
    told["leakage"] |= {"rules": [], "items": []}  # the items' number is filed
    assert submitted.run.result.model_dump(mode="json") == nine_digits(told)


def test_of_a_run_filed_twice_the_last_results_count(board, folder, runs_of):
    one = json.loads((folder / "contrast.json").read_text())
    later = json.loads(json.dumps(one["results"][0]))
    later["submission"] |= {"date": "2026-01-03", "reason": "another library"}
    later["arms"][0]["probe"]["tokens"] = 99
    one["results"].append(later)
    (folder / "contrast.json").write_text(to_text(one))
    seeds = {submitted.header.seed: submitted for submitted in runs_of(board)}
    assert list(seeds) == [1, 0]  # in the order in which they were filed
    assert seeds[0].arms["contrast", "math"].probe.tokens == 99
    assert seeds[1].arms["contrast", "math"].probe.tokens == 512


def test_the_id_is_of_settings_and_tasks_not_of_figures(runs_of, board):
    one = runs_of(board)[0]
    same = [row.model_copy(update={"score": 0.1, "n": 3}) for row in one.base]
    assert run_id(one.header, tuple(same)) == one.run_id
    other = [row.model_copy(update={"version": "0" * 16}) for row in one.base]
    assert run_id(one.header, tuple(other)) != one.run_id
    assert run_id(one.header.model_copy(update={"margin": 0.03}), one.base) != one.run_id


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-30B-A3B", "Qwen__Qwen3-30B-A3B"),
        ("lab-poly", "lab-poly"),
        ("/home/someone/models/mine", "mine"),
        ("./mine/", "mine"),
        ("~/x/mine", "mine"),
        ("..", "model"),
        ("org/..", "org"),
        ("../../etc", "etc"),
        ("<script>alert(1)</script>|x", "script-alert-1-__script-x"),
        ("a b\n", "a-b"),
    ],
)
def test_names_of_models_as_folders(model, name):
    assert folder_name(model).rstrip("_") == name


@given(st.text(min_size=1, max_size=60))
def test_a_folders_name_is_one_plain_name(model):
    name = folder_name(model)
    assert re.fullmatch(r"\w[\w.-]*", name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(string.printable), inner),
    max_leaves=30,
)  # fmt: skip


@given(JSON, st.integers(1, 40))
def test_text_is_the_same_json(value, repeats):
    value = {"a": [value] * repeats, "b": "x" * 30 * repeats}
    assert json.loads(to_text(value)) == value


def test_a_figure_that_changed_is_a_line_that_changed(folder):
    text = (folder / "contrast.json").read_text()
    content = json.loads(text)
    content["results"][0]["arms"][0]["target_result"]["score_b"] = 0.5
    before, after = text.splitlines(), to_text(content).splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1

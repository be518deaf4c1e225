"""Our own runs, read back."""

import json
import shutil

import pandas as pd
import pytest

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.pairing import pair
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.errors import UserError
from dsmoe_eval.results.cells import identity_id

from ...gates.conftest import whole_result
from ...recorded import record

IDENTITY = {"metric": "acc", "filter": None, "prompt_format": "plain", "few_shot": 0}


def cell(root, task, scores, variant="base", **identity):
    identity = {"task": task, "variant": variant} | IDENTITY | identity
    name = identity_id(identity)
    folder = root / "cells" / name
    folder.mkdir(parents=True)
    rows = pd.DataFrame(
        {
            "item": [f"{task}{i}" for i in range(len(scores))],
            "task": task, "domain": task.upper(), "cluster": "c", "question": "why",
            "options": [["a", "b"]] * len(scores), "gold": "a", "score": scores,
        }
    )  # fmt: skip
    rows.to_parquet(folder / "samples.parquet")
    about = {"id": name, "identity": identity, "items": len(scores)}
    (folder / "cell.json").write_text(json.dumps(about))
    record(root)
    return name


BASE_X = identity_id({"task": "x", "variant": "base"} | IDENTITY)


@pytest.fixture
def root(tmp_path):
    """A run of two tasks and variants, steered for two targets."""
    data = whole_result() | {"variants": ["dsmoe", "sham"], "targets": ["x", "y"]}
    base = {t: cell(tmp_path, t, [1, 0, 1]) for t in "xy"}
    data["base"] = [data["base"][0] | {"task": t, "cell": name} for t, name in base.items()]
    arm, other = data["arms"][0], {"x": "y", "y": "x"}
    data["arms"] = [
        arm | {
            "variant": variant, "target": target,
            "cells": {t: cell(tmp_path, t, [1, 1, 0.5], variant + target) for t in "xy"},
            "domains": [arm["domains"][0] | {"task": other[target]}],
        }
        for variant in data["variants"] for target in data["targets"]
    ]  # fmt: skip
    (tmp_path / "comparisons.json").write_text(json.dumps(data))
    return record(tmp_path)


def test_case_11_other_decoding_is_flagged(root):
    sampled = cell(root, "x", [1, 0, 1], decoding="sampled at 0.6", answer_tokens=32768)
    greedy = cell(root, "x", [1, 0, 1], decoding="greedy", answer_tokens=256)
    both = (read_results(root / "cells" / name) for name in (greedy, sampled))
    (warning,) = pair(*both, by_id=False).warnings
    assert "answer_tokens 256 in A, 32768 in B; decoding greedy in A, sampled at 0.6" in warning


def test_variants_of_a_run(root):
    base, steered = read_results(f"{root}:base"), read_results(f"{root}:dsmoe:y")
    pairs = pair(base, steered, by_id=False)
    assert (len(pairs.table), pairs.a.n, pairs.b.n, pairs.warnings) == (6, 0, 0, ())
    assert set(pairs.table["domain"]) == {"X", "Y"}
    assert pairs.table["score_b"].sum() == 5
    assert len(read_results(f"{root}:sham:x").table) == 6
    assert len(read_results(f"{root}:sham:x", Selection(task="x")).table) == 3
    assert len(read_results(root / "cells" / BASE_X).table) == 3


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("", "name what to compare: .*:base"),
        (":dsmoe", "'dsmoe' has several targets; there are dsmoe:x, dsmoe:y"),
        (":rice", "'rice' was not run; there are base, dsmoe:x"),
    ],
)
def test_what_is_left_open_is_asked(root, which, message):
    with pytest.raises(UserError, match=message):
        read_results(f"{root}{which}")


def test_cells_asked_in_another_way_are_refused(root):
    other = cell(root, "x", [1, 1, 1], prompt_format="chat")
    metric = cell(root, "x", [1, 1, 1], metric="f1")
    one, two, three = (read_results(root / "cells" / name) for name in (BASE_X, other, metric))
    with pytest.raises(UserError, match="other prompts: x: prompt of A is plain"):
        pair(one, two, by_id=False)
    with pytest.raises(UserError, match=r"by metric 'acc'.*by 'f1'"):
        pair(one, three, by_id=False)


def test_damage_is_told(root):
    folder = root / "cells" / BASE_X
    rows = pd.read_parquet(folder / "samples.parquet")
    rows.iloc[:2].to_parquet(folder / "samples.parquet")
    with pytest.raises(UserError, match="was changed after the run wrote it"):
        read_results(folder)
    record(root)
    with pytest.raises(UserError, match="holds 2 of 3 items"):
        read_results(folder)
    rows.drop(columns="gold").to_parquet(folder / "samples.parquet")
    record(root)
    with pytest.raises(UserError, match="samples lack 'gold'"):
        read_results(folder)
    (folder / "samples.parquet").write_bytes(b"PAR1")
    record(root)
    with pytest.raises(UserError, match="cannot be read"):
        read_results(folder)
    (folder / "cell.json").write_text("[]")
    record(root)
    with pytest.raises(UserError, match="its identity is not that of cell"):
        read_results(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="does not exist"):
        read_results(folder)
    (root / "comparisons.json").write_text('{"base": [1], "arms": []}')
    record(root)
    with pytest.raises(UserError, match="another version"):
        read_results(f"{root}:base")

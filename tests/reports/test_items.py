"""Items beside a page: what the cells hold, in files that are safe whatever they hold."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports import items
from dsmoe_eval.reports.items import write_item_files

from ..recorded import record

HOSTILE = [
    "right",
    "</script><script>alert(1)</script>",
    "a\u2028b\u2029c <!-- \\ \" '",
    "x" * 5000,
]


def _read(path):
    """What a call holds, and the SHA-256 that it names."""
    key, payload, sha = re.fullmatch(
        r'dsmoeItems\("([\w-]+)",(.*),"([0-9a-f]{64})"\);\n', path.read_text("ascii")
    ).groups()
    assert key == path.stem
    assert hashlib.sha256(payload.encode()).hexdigest() == sha
    return json.loads(payload), sha


def _cell(folder, name):
    return pd.read_parquet(folder.cell(name) / "samples.parquet").set_index("item").sort_index()


def test_choices_are_those_of_the_cells(make_run, tmp_path):
    folder, result = make_run(tmp_path / "run", {"mc": ([f"Q{k}" for k in range(50)], [])}, 3)
    (file,) = write_item_files(folder, result.base, result.arms, tmp_path / "page", "made-up")
    assert (file.set, file.task, file.domain, file.n) == ("made-up", "mc", "math", 50)
    assert file.arms == ("base", "v1 on math", "v2 on math", "v3 on math")
    data, sha = _read(tmp_path / "page" / file.path)
    assert sha == file.sha256
    assert data["arms"] == list(file.arms)
    assert data["parts"] == []
    base = _cell(folder, data["cells"][0])
    assert data["ids"] == list(base.index)
    assert data["question"] == list(base["question"])
    assert data["gold"] == [1] * 50
    for arm, cell in enumerate(data["cells"]):
        rows = _cell(folder, cell)
        assert data["scores"][arm] == list(rows["score"])
        shown = [own[code] for own, code in zip(data["options"], data["answers"][arm], strict=True)]
        assert shown == list(rows["answer"])
        gained = np.array(data["scores"][arm]) > np.array(data["scores"][0])
        assert list(gained) == list(rows["score"] > base["score"])


def test_generated_texts_lie_in_parts(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(items, "PART_CHARACTERS", 40_000)
    folder, result = make_run(tmp_path / "run", {"gen": ([f"Q{k}" for k in range(20)], HOSTILE)}, 2)
    (file,) = write_item_files(folder, result.base, result.arms, tmp_path, "made-up")
    index, _ = _read(tmp_path / file.path)
    assert len(index["parts"]) == len(index["starts"]) > 1
    assert index["gold"] == ["right"] * 20
    rows = [_cell(folder, cell) for cell in index["cells"]]
    assert index["scores"] == [list(own["score"]) for own in rows]
    texts, answers = [[], [], []], [[], [], []]
    for number, (start, sha) in enumerate(zip(index["starts"], index["parts"], strict=True)):
        part, own = _read(tmp_path / file.path.replace(".js", f"-{number}.js"))
        assert (part["start"], own) == (start, sha)
        assert start == len(texts[0])
        for arm in range(3):
            texts[arm] += part["texts"][arm]
            answers[arm] += part["answer"][arm]
    assert texts == [[list(own) for own in one["texts"]] for one in rows]
    assert answers == [list(one["answer"]) for one in rows]
    same = np.array(index["answers"][0]) == np.array(index["answers"][1])
    assert list(same) == list(rows[0]["answer"] == rows[1]["answer"])


@given(st.text())
def test_any_text_is_safe_in_a_script(tmp_path_factory, text):
    to = tmp_path_factory.mktemp("js")
    items._write(to, "key", {"a": text, text: ["</script>"]})
    content = (to / "items" / "key.js").read_bytes()
    assert b"<" not in content
    assert content.isascii()  # no U+2028 either
    assert _read(to / "items" / "key.js")[0]["a"] == text


@given(st.text(), st.text())
def test_names_of_files_are_safe(run, task):
    key = items._key(run, task)
    assert re.fullmatch(r"[A-Za-z0-9_-]{13,73}", key)
    assert key != items._key(run + "x", task)
    assert key != items._key(run, task + "/")


@given(st.lists(st.integers(0, 3 * items.PART_CHARACTERS), min_size=1))
def test_parts_hold_every_item_once_and_fill_up(sizes):
    ends = items._ends(sizes)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(sizes)
    for start, end in zip([0, *ends], ends[:-1], strict=False):
        assert sum(sizes[start:end]) >= items.PART_CHARACTERS
        assert sum(sizes[start : end - 1]) < items.PART_CHARACTERS


def test_two_runs_do_not_share_a_file(make_run, tmp_path):
    folder, result = make_run(tmp_path / "run", {"../../etc/<b>": (["Q"], [])}, 1)
    one, two = (
        write_item_files(folder, result.base, result.arms, tmp_path / "p", name)[0]
        for name in ("a", "b")
    )
    assert one.path != two.path
    assert (one.set, two.set) == ("a", "b")
    assert {path.name for path in (tmp_path / "p" / "items").iterdir()} == {
        one.path.removeprefix("items/"), two.path.removeprefix("items/")
    }  # fmt: skip


def test_other_items_than_base_are_refused(make_run, tmp_path):
    folder, result = make_run(tmp_path / "run", {"mc": (["Q", "R"], [])}, 1)
    path = folder.cell("cell-1-0") / "samples.parquet"
    pd.read_parquet(path).iloc[:1].to_parquet(path, index=False)
    record(folder.root)
    with pytest.raises(UserError, match="cell cell-1-0 holds other items than base's"):
        write_item_files(folder, result.base, result.arms, tmp_path, "made-up")

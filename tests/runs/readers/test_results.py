"""Rows as readers make them, checked."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.runs.items import read_items
from dsmoe_eval.runs.readers.results import COLUMNS, digest, finish, first_few, wording_of


class Task:
    """Of lm-eval, as far as items are concerned."""

    OUTPUT_TYPE = "multiple_choice"

    def doc_to_text(self, doc):
        return doc["question"]

    def doc_to_target(self, _doc):
        return 1

    def doc_to_choice(self, _doc):
        return ["é", "b"]


def test_digest_and_wording_are_those_of_our_items():
    (item,) = read_items(Task(), [{"question": "Why  IS it?"}], None)
    assert digest("Why  IS it?", ["é", "b"], "b") == item.id
    assert wording_of("why is it") == item.cluster
    text = json.dumps(("x",))
    assert digest("x") == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest("\ud800")  # half a character, as JSON may hold


def test_unknown_columns_are_empty():
    found = finish("s", pd.DataFrame({"id": ["a"], "score": [1.0]}), {"": (None, None)})
    assert list(found.table) == [name for name in COLUMNS if name != "sample"]
    assert found.table.notna().sum(axis=1).tolist() == [2]


def test_a_score_that_is_not_finite_is_refused():
    rows = pd.DataFrame({"id": ["a", "b"], "score": [1.0, np.nan]})
    with pytest.raises(UserError, match=r"s: 1 score\(s\) are not finite, first that of item 'b'"):
        finish("s", rows, {})


def test_samples_of_one_item_are_of_one_content():
    rows = pd.DataFrame(
        {"id": ["a", "a"], "sample": ["0", "1"], "content": ["x", "y"], "score": [1.0, 0.0]}
    )
    with pytest.raises(UserError, match="samples of item 'a' differ in content"):
        finish("s", rows, {})
    means = finish("s", rows.assign(content="x"), {}).table
    assert means[["id", "content", "score"]].to_numpy().tolist() == [["a", "x", 0.5]]


def test_items_of_two_tasks_may_share_a_name():
    rows = pd.DataFrame({"task": ["t", "u"], "id": ["a", "a"], "score": [1.0, 0.0]})
    assert len(finish("s", rows, {}).table) == 2


def test_names_are_shortened():
    assert first_few("abcde") == "'a', 'b', 'c' and 2 more"

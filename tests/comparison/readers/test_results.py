"""Rows as readers make them, checked."""

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.comparison.readers.results import COLUMNS, finish, first_few
from dsmoe_eval.errors import UserError


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

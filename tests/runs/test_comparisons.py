"""Pairing by content."""

import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.runs.comparisons import pair


def samples(**scores):
    return pd.DataFrame({"item": list(scores), "score": list(scores.values())})


def test_rows_are_paired_by_item_not_by_position():
    paired = pair(samples(a=1, b=0, c=1), samples(c=0, a=1, b=1), "t")
    rows = {row["item"]: (row["score_a"], row["score_b"]) for _, row in paired.iterrows()}
    assert rows == {"a": (1, 1), "b": (0, 1), "c": (1, 0)}


def test_an_item_on_one_side_only_is_an_error():
    with pytest.raises(UserError, match="2 item"):
        pair(samples(a=1, b=0), samples(a=1, c=0), "t")


def test_a_doubled_item_is_an_error():
    doubled = pd.concat([samples(a=1), samples(a=0)])
    with pytest.raises(pd.errors.MergeError):
        pair(samples(a=1), doubled, "t")

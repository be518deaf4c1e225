"""One rule for what a column is, over all its rows, whatever the format."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.comparison.readers.columns import canonical, check_names, column_texts
from dsmoe_eval.errors import UserError


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([3, None, 0], ["3", None, "0"]),
        ([3.0, float("nan"), 0.0], ["3", None, "0"]),
        ([2.5, 1, 2], ["2.5", "1", "2"]),
        (["2.5", "1.0", "2"], ["2.5", "1", "2"]),
        (["01", "2"], ["01", "2"]),
        (["1.10", "1.1"], ["1.10", "1.1"]),
        ([3.0, "N/A", ""], ["3", "N/A", None]),
        ([3.0, "none of these"], ["3.0", "none of these"]),
        ([2**63 + 1, 2**63 + 2, None], ["9223372036854775809", "9223372036854775810", None]),
        ([1e22, -0.0, 1e-7], ["10000000000000000000000", "0", "1e-07"]),
        ([True, False, None], ["True", "False", None]),
        ([Decimal("3.00"), Decimal("2.50")], ["3", "2.5"]),
        ([datetime.date(2024, 5, 1), None], ["2024-05-01", None]),
        ([None, None], [None, None]),
    ],
)
def test_case_01_types_are_decided_over_all_rows(values, texts):
    assert column_texts(pd.Series(values, dtype=object)).tolist() == texts


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "float32", "Float64", "uint8"])
def test_case_01_whole_numbers_are_the_same_text_in_every_type(dtype):
    assert column_texts(pd.Series([3, 0, 7], dtype=dtype)).tolist() == ["3", "0", "7"]


def test_case_01_a_gap_leaves_integers_what_they_are():
    column = pd.Series([2**62 + 1, None], dtype="Int64")
    assert column_texts(column).tolist() == [str(2**62 + 1), None]
    floats = pd.Series([0.1, np.nan], dtype="float32")
    assert column_texts(floats).tolist() == ["0.1", None]


def test_lists_are_told_apart_by_their_content():
    first, same, other = column_texts(pd.Series([["a", "b"], np.array(["a", "b"]), ["a"]]))
    assert first == same != other


def test_case_01_floats_that_collapse_whole_numbers_are_no_names():
    check_names("t", pd.Series([2.0**53 - 1, np.nan]), "cluster")
    check_names("t", pd.Series([2**62, 3]), "cluster")
    with pytest.raises(UserError, match=r"t: column 'cluster' .*2\^53.*as integers or as text"):
        check_names("t", pd.Series([2.0**53, np.nan]), "cluster")


def test_a_single_value_is_written_as_in_a_column_of_numbers():
    assert [canonical(text) for text in ("-1.0", "3", "N/A", "x", "")] == [
        "-1",
        "3",
        "N/A",
        "x",
        "",
    ]

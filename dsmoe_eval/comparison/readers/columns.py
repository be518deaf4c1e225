"""A column's values as text, by one rule for every format, so that the formats agree.

A column's type is decided over all its rows. Where every value is a number, or text that is
written as Python writes numbers, the column is of numbers, and a whole number is written without a
fraction: 3, 3.0 and "3" are "3", whether or not another row is empty or 2.5. Any other column
is text and is not changed ("01", "1.10"). Empty text and null are both "no value".
"""

from __future__ import annotations

import datetime
import math
import re
from decimal import Decimal
from typing import TypeAlias

import numpy as np
import pandas as pd

from ...errors import UserError
from ...tasks.items import digest

# pandas' stubs name no type for a column of text with gaps.
Strings: TypeAlias = "pd.Series[str]"
MARKS = frozenset({"missing", "na", "n/a", "nan", "null", "none", "skipped", "error"})
"""What tables write where there is no answer; they do not make a column of numbers text."""

_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]\d+)?")
_EXACT = 2.0**53


def column_texts(column: pd.Series) -> Strings:
    """Return a column's values as text, by the rule of this module.

    Args:
        column: shape (n,), of any type; a value may be a list or a dictionary.

    Returns:
        Shape (n,), strings; None where there is no value.
    """
    raw = _raw_texts(column)
    codes, uniques = pd.factorize(np.array(raw, dtype=object))
    names: list[str] = [str(name) for name in uniques]
    if all(_is_number(name) for name in names):
        names = [_number_text(name) for name in names]
    values = np.array([*names, None], dtype=object)
    return pd.Series(values[codes], index=column.index, dtype=object)


def check_names(source: str, column: pd.Series, name: str) -> None:
    """Refuse floats as names of items or clusters that cannot represent every whole number.

    Args:
        source: the name of the source, with which the message begins.
        column: the column, as read from the source.
        name: the name of the column.

    Raises:
        UserError: a value is at least 2^53 as a floating-point number.
    """
    if column.dtype.kind != "f":
        return
    if (column.abs() >= _EXACT).any():
        raise UserError(
            f"{source}: column {name!r} holds whole numbers above 2^53 as floating-point numbers, "
            "in which neighbours are equal; write the column as integers or as text"
        )


def _raw_texts(column: pd.Series) -> list[str | None]:
    if column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype):
        return [str(value) for value in column.to_numpy().tolist()]
    if column.dtype in (np.float16, np.float32):  # the shortest text of a float32
        return [None if value != value else str(value) for value in column.to_numpy()]
    return [_raw_text(value) for value in column.tolist()]


def _raw_text(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else repr(float(value))
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value.is_finite() else None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | dict):
        return digest(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value)


def _is_number(text: str) -> bool:
    """Return whether text is a number that can be written anew without loss, or a mark."""
    if _WHOLE.fullmatch(text) or text.casefold() in MARKS:
        return True
    return bool(_FLOAT.fullmatch(text)) and repr(float(text)) == text


def _number_text(text: str) -> str:
    if text == "-0":
        return "0"
    if not _FLOAT.fullmatch(text) or _WHOLE.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def canonical(text: str) -> str:
    """Return text as `column_texts` writes it in a column of numbers."""
    return _number_text(text) if _is_number(text) else text

"""Answers against right ones: how they match, and how many nearly do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...errors import UserError
from .columns import MARKS, Strings

Match = Literal["exact", "number", "casefold-strip"]
MATCHES: tuple[Match, ...] = get_args(Match)
"""The rules by which an answer is compared with the right one:

`exact`: the same text, character by character (numbers: see `columns`). `number`: the same number,
in any notation ("1,234", "1234.0"); where one of the two is not a number, as `exact`.
`casefold-strip`: the same text apart from case, blanks at the ends and repeated blanks.
"""
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,_' \u00a0\u202f]\d{3})+(\.\d*)?")
_SEPARATORS = str.maketrans("", "", ",_' \u00a0\u202f")


def judged(
    source: str, answers: Strings, gold: Strings, match: Match, marks_are_answers: bool
) -> tuple[pd.Series[float], tuple[str, ...]]:
    """Score answers: 1 where an answer matches the right one, else 0; no answer scores 0.

    Args:
        source: the name of the source, with which messages begin.
        answers: shape (n,), as `columns.column_texts`.
        gold: shape (n,), the right answers.
        match: one of `MATCHES`.
        marks_are_answers: whether "None", "N/A" and the like are answers.

    Returns:
        Scores, shape (n,), and what the user should know of near misses.

    Raises:
        UserError: a right answer is missing, or answers look like marks of missing ones.
    """
    if gold.isna().any():
        row = int(np.flatnonzero(gold.isna())[0]) + 1
        raise UserError(
            f"{source}: {int(gold.isna().sum())} item(s) have no right answer, first in row {row}; "
            "fill the column, or name another with --gold"
        )
    if not marks_are_answers:
        _check_marks(source, answers, gold)
    norms = {text: _NORMS[match](text) for text in {*answers.dropna(), *gold}}
    right = _alike(answers, gold, norms)
    wrong = ~right & answers.notna().to_numpy(dtype=bool)
    loose = {text: _loosest(text) for text in {*answers[wrong], *gold[wrong]}}
    near = int(_alike(answers[wrong], gold[wrong], loose).sum())
    scores = pd.Series(right.astype(np.float64), index=answers.index)
    return scores, ((_near_note(near, match),) if near else ())


def _alike(
    answers: Strings, gold: Strings, norms: Mapping[str, str | Decimal]
) -> NDArray[np.bool_]:
    """Return for each row whether both have one norm; a missing answer is like none."""
    # As objects: pandas turns a column of text alone into strings, and refuses numbers beside it.
    left, right = (column.map(norms).astype(object) for column in (answers, gold))
    return (left == right).to_numpy(dtype=bool)


def _check_marks(source: str, answers: Strings, gold: Strings) -> None:
    golds = set(gold)
    counts = answers.value_counts()
    for value, count in counts.items():
        if str(value).casefold() in MARKS and value not in golds:
            raise UserError(
                f"{source}: {count} answers are {str(value)!r}; if these items were not put to "
                f"the model say --missing-value {value}; if it is what the model answered say "
                "--no-missing-value, and it counts as wrong"
            )


def _near_note(near: int, match: Match) -> str:
    others = " or ".join(f"--match {name}" for name in MATCHES[1:] if name != match)
    how = "are matched exactly" if match == "exact" else f"are matched by {match}"
    return (
        f"{near} answers differ from the right one only by case, blanks or thousands separators "
        f"(or the notation of a number) and count as wrong, since answers {how}; see {others}"
    )


def _exact(text: str) -> str:
    return text


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _as_number(text: str) -> str | Decimal:
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> Decimal | None:
    stripped = text.strip()
    if _THOUSANDS.fullmatch(stripped):
        stripped = stripped.translate(_SEPARATORS)
    try:
        number = Decimal(stripped)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _loosest(text: str) -> str | Decimal:
    number = _number(text)
    return "".join(text.split()).casefold() if number is None else number


_NORMS: Mapping[Match, Callable[[str], str | Decimal]] = {
    "exact": _exact,
    "number": _as_number,
    "casefold-strip": _folded,
}

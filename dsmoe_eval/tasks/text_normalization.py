"""Normalization of texts for comparison, and the similarity of two texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

RUN_WORDS = 5
PASSAGE_WORDS = 40
LONG_WORDS = 12
NEAR = 0.8
"""Two texts are nearly the same if both have at least `LONG_WORDS` words and the Jaccard index of
their sets of runs of `RUN_WORDS` consecutive words is at least `NEAR`."""

_HYPHENS = frozenset("-*/\N{MIDDLE DOT}\N{BULLET}")
_DASHES = "\N{MINUS SIGN}\N{BOX DRAWINGS LIGHT HORIZONTAL}"
_SLASHES = "\N{FRACTION SLASH}\N{DIVISION SLASH}"
_ROWS_AT_ONCE = 512


def normalise(text: str) -> str:
    """Convert a text to lower-case words, numbers and operators with single spaces between them.

    Unicode's compatibility forms are resolved (NFKC), but a superscript gets a caret: `x²` is
    `x ^ 2`. Symbols of mathematics and other symbols, `^`, `%` and currencies except `$` are kept;
    so are decimal points, and `-`, `*`, `/` and centred dots if they are no hyphens: before a
    number, or between operands, which are numbers and single characters. All other punctuation is
    removed, also the comma between thousands. Normalising twice gives the same as once.
    """
    folded = unicodedata.normalize("NFKC", text.translate(_FIRST)).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    folded = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", folded)
    folded = re.sub(r"\.(?!\d)|(?<=[^\W\d_])\.", " ", folded)
    return " ".join(_without_hyphens(folded.translate(_THEN).split()))


def letters(normalised: str) -> str:
    """Remove spaces, in which copies of a text differ, except between two numbers."""
    return re.sub(r"(?<!\d) (?!\.)| (?![\d.])", "", normalised)


def _without_hyphens(tokens: Sequence[str]) -> Iterable[str]:
    return tokens if _HYPHENS.isdisjoint(tokens) else _operators(tokens)


def _operators(tokens: Sequence[str]) -> Iterator[str]:
    before = accumulate(tokens, _last_solid, initial="")
    after = [*accumulate(reversed(tokens), _last_solid, initial="")][-2::-1]
    for last, token, following in zip(before, tokens, after, strict=False):
        between = _is_operand(last) and _is_operand(following)
        if token not in _HYPHENS or between or _is_number(following):
            yield token


def _last_solid(last: str, token: str) -> str:
    return last if token in _HYPHENS else token


def _is_operand(token: str) -> bool:
    return len(token) == 1 or _is_number(token)


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or token[:1] == "."


class _Table(dict[int, str]):
    """A table for `str.translate` that calls `rule` once per different character."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self.rule(chr(code))
        return self[code]


def _first(character: str) -> str:
    """Mark superscripts and fractions, which NFKC would lose, and remove format characters."""
    form = unicodedata.decomposition(character)
    if unicodedata.category(character) == "Cf":
        return ""
    if form.startswith("<super>"):
        return "^" + character
    return " " + character if form.startswith("<fraction>") else character


def _then(character: str) -> str:
    """Return a word character unchanged, an operator between spaces, and a space otherwise."""
    category = unicodedata.category(character)
    if category[0] in "LMN" or character == ".":
        return character
    if category == "Pd" or character in _DASHES:
        return " - "
    if character in _SLASHES:
        return " / "
    symbol = category in {"Sm", "So", "Sc"} and character != "$"
    return f" {character} " if symbol or character in "^%" or character in _HYPHENS else " "


_FIRST, _THEN = _Table(_first), _Table(_then)


def windows(text: str) -> Iterator[list[str]]:
    """Yield the passages of a text: `PASSAGE_WORDS` words each, the last ones maybe in two."""
    words = normalise(text).split()
    for start in range(0, len(words), PASSAGE_WORDS):
        start = max(0, min(start, len(words) - PASSAGE_WORDS))
        yield words[start : start + PASSAGE_WORDS]


def closest(
    own: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]],
    *,
    as_part: bool = False,
    apart: Sequence[int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find for each text the most similar other text, exactly; see `NEAR`.

    Common runs are counted by a sparse matrix product, which is an inverted index: texts without a
    common run are never compared.

    Args:
        own: texts as words.
        others: texts that they are compared with.
        as_part: whether a text is also alike if it is a part of a longer one: instead of the
            Jaccard index, the share of its runs that are in the other text.
        apart: the index in `others` that each text is not compared with.

    Returns:
        Index in `others`, the first of equals, and Jaccard index or share, each `[len(own)]`; -1
        and 0 if no text is nearly the same.
    """
    index, jaccard = np.full(len(own), -1, dtype=np.int64), np.zeros(len(own))
    vocabulary: dict[tuple[str, ...], int] = {}
    first, second = _run_sets(own, vocabulary), _run_sets(others, vocabulary)
    left = _incidence(first, len(vocabulary))
    right = _incidence(second, len(vocabulary)).T.tocsr()
    left_size, right_size = (np.array([len(runs) for runs in sets]) for sets in (first, second))
    for start in range(0, len(own), _ROWS_AT_ONCE):
        common = (left[start : start + _ROWS_AT_ONCE] @ right).tocoo()
        row, column = common.row + start, common.col
        union = left_size[row] + right_size[column] - common.data
        alike = common.data / (left_size[row] if as_part else union)
        near = alike >= NEAR
        if apart is not None:
            near &= column != np.asarray(apart)[row]
        row, column, alike = row[near], column[near], alike[near]
        order = np.lexsort((column, -alike, row))
        rows, firsts = np.unique(row[order], return_index=True)
        index[rows], jaccard[rows] = column[order][firsts], alike[order][firsts]
    return index, jaccard


def _run_sets(
    texts: Sequence[Sequence[str]], vocabulary: dict[tuple[str, ...], int]
) -> list[set[int]]:
    """Return the runs of each text, numbered by `vocabulary`; none for texts that are too short."""
    return [
        {
            vocabulary.setdefault(tuple(words[start : start + RUN_WORDS]), len(vocabulary))
            for start in range(len(words) - RUN_WORDS + 1 if len(words) >= LONG_WORDS else 0)
        }
        for words in texts
    ]


def _incidence(sets: Sequence[set[int]], columns: int) -> sparse.csr_matrix:
    """Build the incidence matrix of 0 and 1, [sets, columns]."""
    pointers = np.cumsum([0, *map(len, sets)])
    members = np.fromiter((run for runs in sets for run in runs), dtype=np.int64)
    ones = np.ones(len(members), dtype=np.int32)
    return sparse.csr_matrix((ones, members, pointers), shape=(len(sets), max(1, columns)))

"""Whole texts in lm-eval's rolling windows, of the model's length: each token is predicted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import UserError

Tokens = Sequence[int]
Arranged = TypeVar("Arranged")


@dataclass(frozen=True, slots=True)
class RollingTexts(Generic[Arranged]):
    """Texts in windows.

    Attributes:
        arranged: the windows of all texts, arranged for an engine to score them.
        counts: the number of windows of each text.
    """

    arranged: Arranged
    counts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        texts: Sequence[Tokens],
        first: int,
        longest: int | None,
        arrange: Callable[[list[tuple[Tokens, Tokens]]], Arranged],
    ) -> RollingTexts[Arranged]:
        """Arrange texts in windows, of which the first is read after the token `first`.

        Raises:
            UserError: the limit of the model's length, `longest`, is not known.
        """
        limit = known_length(longest)
        windows = [
            list(map(make_disjoint_window, get_rolling_token_windows(text, first, limit, 1)))
            for text in texts
        ]
        return cls(arrange([one for own in windows for one in own]), tuple(map(len, windows)))

    def totals(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each text's values, of one value per window."""
        left: Iterator[float] = iter(values)
        return [sum(islice(left, count)) for count in self.counts]


def known_length(longest: int | None) -> int:
    """Return the limit of the model's length in tokens, which windows need.

    Raises:
        UserError: it is not known.
    """
    if longest is None:
        raise UserError("rolling log-likelihood (perplexity tasks) is not served by this engine")
    return longest

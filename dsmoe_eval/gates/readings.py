"""What a metric of a policy reads from a run: a number, claims, or a condition."""

from __future__ import annotations

from dataclasses import dataclass


class MissingFigureError(Exception):
    """An error: a figure that a rule needs does not exist for this run or arm, and why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number, with its interval if there is one, as fractions.

    Attributes:
        value: infinite if no bound could be met.
        low: lower end of the interval; None: there is none.
        high: upper end.
        words: remarks on the number.
    """

    value: float
    low: float | None = None
    high: float | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Claims:
    """The allowed claims, one per comparison that the figure is about: (verdict, words)."""

    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that is true or false."""

    passed: bool
    words: str


Reading = Measurement | Claims | Check

"""The text form of numbers: functions from numbers to text.

Differences of scores are fractions in all modules; only this module turns them into percentage
points (pp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

percent = "{:.1%}".format
"""A fraction: `82.3%`."""
percents = "{:.1%}, {:.1%}".format
percent_to_percent = "{:.1%} to {:.1%}".format
decimal = "{:.1f}".format
decimals = "{:.1f} to {:.1f}".format
significant = "{:.3g}".format
share_of = "{} of {}".format
"""A count and the total that it is part of: `3 of 4`."""
thousands = "{:,}".format
hundredths = "{:.2f}".format


def points(fraction: float, mark: str = "") -> str:
    """Return a difference in percentage points without the unit, and a mark behind it."""
    return f"{100 * fraction:+.1f}{f' {mark}' if mark else ''}"


def pp(fraction: float, mark: str = "") -> str:
    """Return a difference in percentage points with the unit, and a mark behind it."""
    return f"{points(fraction)} pp{f' {mark}' if mark else ''}"


def thousandths(gain: float, mark: str = "") -> str:
    """Return a signed number with three decimals, and a mark behind it."""
    return f"{gain:+.3f}{f' {mark}' if mark else ''}"


def fixed(value: float, digits: int = 3) -> str:
    """Return a number with some decimals, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def size(fraction: float) -> str:
    """Return the size of an effect in percentage points, without sign and unit."""
    return f"{100 * fraction:.1f}"


def sizes(low: float, high: float) -> str:
    """Return the ends of an interval in percentage points, without sign and unit."""
    return f"{size(low)} to {size(high)}"


def size_pp(fraction: float) -> str:
    """Return the size of an effect in percentage points, without a sign."""
    return f"{size(fraction)} pp"


def pp_of(fraction: float, name: str) -> str:
    """Return a difference and, in brackets, the name of what it belongs to."""
    return f"{pp(fraction)} ({name})"


def points_of(fraction: float, name: str) -> str:
    """Return a difference without the unit and, in brackets, the name of what it belongs to."""
    return f"{points(fraction)} ({name})"


def pp_and(fraction: float, words: str) -> str:
    """Return a difference and what it means."""
    return f"{pp(fraction)}, {words}"


def points_interval(low: float, high: float) -> str:
    """Return the ends of an interval in percentage points."""
    return f"{points(low)} to {points(high)}"


def points_with_interval(value: float, low: float, high: float) -> str:
    """Return a difference in percentage points, and its interval in brackets."""
    return f"{points(value)} [{points(low)}, {points(high)}]"


def pp_with_interval(value: float, low: float, high: float) -> str:
    """Return a difference with the unit, and its interval in brackets."""
    return f"{pp(value)} [{points(low)}, {points(high)}]"


def share_with_interval(share: float, *interval: float | str) -> str:
    """Return a share in percent and, in brackets, its interval or that there is none."""
    ends = ", ".join(one if isinstance(one, str) else fixed(100 * one, 0) for one in interval)
    return f"{whole_percent(share)} [{ends}]"


def whole_percent(share: float) -> str:
    """Return a share in percent without decimals."""
    return f"{fixed(100 * share, 0)} %"


def score(value: float, *interval: float) -> str:
    """Return a score in percent and, in brackets, its interval if there is one."""
    ends = ", ".join(f"{100 * end:.1f}" for end in interval)
    return f"{100 * value:.1f} %{f' [{ends}]' if ends else ''}"


def floors(*values: float | str) -> str:
    """Return scores in percent, and words where there is none."""
    return "; ".join(value if isinstance(value, str) else score(value) for value in values)


def span(numbers: Sequence[float], show: Callable[[float], str] = thousands) -> str:
    """Return the smallest and the largest number, or one where they are shown alike."""
    low, high = show(min(numbers)), show(max(numbers))
    return low if low == high else f"{low} to {high}"


def named(members: Sequence[object], total: int, kind: str) -> str:
    """Return how many members there are of a total, with their names: `1 of 4 targets (law)`."""
    names = f" ({', '.join(map(str, members))})" if members else ""
    return f"{len(members)} of {total} {kind}{names}"


def p_value(value: float) -> str:
    """Return a p-value with four decimals; smaller ones as a bound."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def margin(fraction: float) -> str:
    """Return the margin of non-inferiority in percentage points, without the unit."""
    return f"{100 * fraction:g}"

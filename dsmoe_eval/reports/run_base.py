"""Base's score on every task, beside what guessing and one constant answer would get."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..results.schema import Base, RunResult
from . import formats
from .run_arms import targets_of
from .table import Facets, Figure, Table, make_table, otherwise, words

_Z95 = 1.96


def base_scores(result: RunResult) -> Table:
    """Return one row per task that base answered."""
    caption = (
        "Chance: the expected score of random options. One constant answer: the best score that "
        "the same position or the same text gets on these very items. Where base is at one of "
        "them, its right answers may be luck."
    )
    return make_table("base", caption, _BASE, result.base, _facets)


def _facets(row: Base) -> Facets:
    return {"domain": (row.domain,)}


def _source(place: str) -> Callable[[Base], str]:
    return lambda row: f"comparisons.json: base[{row.task}].{place}"


def _score(row: Base) -> tuple[float, ...]:
    return (row.score, *(row.ci95 or ()))


_BASE: tuple[Figure[Base], ...] = (
    words("task", lambda row: row.task),
    words("domain", lambda row: row.domain),
    words("role", lambda row: row.role),
    Figure("n", lambda row: row.n, source=_source("n")),
    Figure("base score", _score, formats.score, _source("score; Wilson's interval")),
    Figure("chance", lambda row: otherwise(row.chance, "-"), formats.score, _source("chance")),
    Figure("one constant answer", lambda row: otherwise(row.constant, "-"), formats.score,
        _source("constant")),
    words("reading", lambda row: reading(row)),
)  # fmt: skip


def is_at(row: Base, floor: float | None) -> bool:
    """Return whether base is not shown to be above a floor: its interval reaches it."""
    low = row.score if row.ci95 is None else row.ci95[0]
    return floor is not None and low <= floor


def is_too_small(row: Base) -> bool:
    """Return whether the items are too few to show base above chance: even all right would not."""
    if row.chance is None or not is_at(row, row.chance):
        return False
    # Wilson's lower bound if all were right; dependent items have a lower one.
    return row.score == 1.0 or row.n / (row.n + _Z95**2) <= row.chance


def reading(row: Base) -> str:
    """Return which floor base is not above, in words; empty if it is above both."""
    if is_too_small(row):
        return "too few items"
    if is_at(row, row.chance):
        high = row.score if row.ci95 is None else row.ci95[1]
        return "below chance" if high < (row.chance or 0.0) else "at chance"
    return "no better than one answer" if is_at(row, row.constant) else ""


def floor_findings(result: RunResult) -> list[str]:
    """Return a sentence on the targets where base is at chance, and one on the other floor."""
    rows = {row.domain: row for row in result.base if row.role == "target"}
    targets = [rows[name] for name in targets_of(result)]
    few = [row for row in targets if is_too_small(row)]
    guessed = [row for row in targets if row not in few and is_at(row, row.chance)]
    fixed = [row for row in targets if row not in few + guessed and is_at(row, row.constant)]
    below = " or below" if any(reading(row) == "below chance" for row in guessed) else ""
    found = []
    if few:
        each = "; ".join(f"{_beside_chance(row)}, of {row.n} items" for row in few)
        found.append(
            f"On {_names(few)} so few items cannot show that base is above chance: {each}."
        )
    if guessed:
        each = "; ".join(map(_beside_chance, guessed))
        found.append(
            f"On {_names(guessed)} base is at chance{below}: {each}. Its right answers there may "
            "be luck."
        )
    if fixed:
        each = "; ".join(
            f"{_scored(row)}, where that answer gives {formats.score(row.constant or 0.0)}"
            for row in fixed
        )
        found.append(f"On {_names(fixed)} base is no better than one answer to all: {each}.")
    return found


def _names(rows: Sequence[Base]) -> str:
    return ", ".join(row.domain for row in rows)


def _scored(row: Base) -> str:
    return f"{row.domain} {formats.score(*_score(row))}"


def _beside_chance(row: Base) -> str:
    chance = formats.score(row.chance or 0.0)
    if reading(row) == "below chance":
        return f"{_scored(row)}, below the {chance} of guessing"
    return f"{_scored(row)}, where guessing gives {chance}"

"""Tables: numbers and words with their sources, shown as HTML (`page.html.j2`) or Markdown.

A cell keeps its number until it is rendered, so a page sorts by the number itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import printable
from ..files import write_text

Facets = dict[str, tuple[str, ...]]
"""The values by which a page filters something, as `{"variant": ("contrast",)}`.

A facet that is not named does not apply, and never hides the thing.
"""
Value = str | float | tuple[str | float, ...]
"""Words, a number, or numbers and words that are shown together."""
_HTML = re.compile(r"<(?=[A-Za-z/?!])(?!!-- entries [0-9a-f]+ -->)")
Subject = TypeVar("Subject")
"""The subject of a row, such as an arm."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: words, a number, or a tuple of both; words are shown unchanged, the rest by `show`.
        show: makes the text, from one argument per part of the value.
        source: the file, the path in it and the test that the value comes from.
        kind: `good`, `bad` or `mark`, a CSS class; the text says the same without colour.
    """

    value: Value = ""
    show: Callable[..., str] = str
    source: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        """The value as shown."""
        if isinstance(self.value, str):
            return self.value
        return self.show(*(self.value if isinstance(self.value, tuple) else (self.value,)))

    @property
    def number(self) -> float | None:
        """The number by which a numeric column is sorted; None: no number, the cell comes last."""
        first = self.value[0] if isinstance(self.value, tuple) else self.value
        return None if isinstance(first, str) else first


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `help` is its hover text."""

    name: str
    numeric: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: one per column.
        facets: the values by which the row is filtered.
        dim: whether it is shown greyed.
        apart: whether its numbers are of another kind than those of the other rows, such as scores
            among changes; sorting puts it last.
    """

    cells: tuple[Cell, ...]
    facets: Facets = field(default_factory=dict)
    dim: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted and filtered; `id` is unique in its page.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"table {self.id}: a row has {len(row.cells)} cells")


@dataclass(frozen=True, slots=True)
class Figure(Generic[Subject]):
    """A column, and how its cell is made from the subject of a row.

    Attributes:
        name: the column's header.
        value: the cell's value; None: the subject has no such figure, and the cell no source.
        show: as in `Cell`.
        source: as in `Cell`.
        numeric: whether the column is sorted by number.
        blank: the text for None.
        kind: as in `Cell`.
        help: as in `Column`.
    """

    name: str
    value: Callable[[Subject], Value | None]
    show: Callable[..., str] = str
    source: Callable[[Subject], str] | None = None
    numeric: bool = True
    blank: str = ""
    kind: Callable[[Subject], str] | None = None
    help: str = ""

    def cell(self, subject: Subject) -> Cell:
        """Return the cell of a subject's row."""
        value = self.value(subject)
        if value is None:
            return Cell(self.blank)
        return Cell(
            value,
            self.show,
            "" if self.source is None else self.source(subject),
            "" if self.kind is None else self.kind(subject),
        )


def words(
    name: str, value: Callable[[Subject], str], source: Callable[[Subject], str] | None = None
) -> Figure[Subject]:
    """Return a column of words, which are sorted as text."""
    return Figure(name, value, source=source, numeric=False)


def otherwise(number: float | None, said: str) -> Value:
    """Return the number, or the given text if there is none."""
    return said if number is None else number


def make_table(
    id: str,  # noqa: A002 - the attribute's name
    caption: str,
    figures: Sequence[Figure[Subject]],
    subjects: Iterable[Subject],
    facets: Callable[[Subject], Facets] = lambda _: {},
    dim: Callable[[Subject], bool] = lambda _: False,
) -> Table:
    """Return a table with one column per figure and one row per subject."""
    return Table(
        id,
        caption,
        tuple(Column(figure.name, figure.numeric, figure.help) for figure in figures),
        tuple(
            Row(tuple(figure.cell(subject) for figure in figures), facets(subject), dim(subject))
            for subject in subjects
        ),
    )


def markdown(table: Table) -> str:
    """Return the table in Markdown, with a line break at its end."""
    header = [_in_a_cell(column.name) for column in table.columns]
    rule = ["---", *("---:" for _ in header[1:])]
    rows = ([_in_a_cell(cell.text) for cell in row.cells] for row in table.rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def write_markdown(path: Path, text: str) -> None:
    """Write a Markdown page in which no HTML of the data, and no control character, is left.

    Pages have no HTML but the comment by which a leaderboard knows its entries.
    """
    write_text(path, _HTML.sub("&lt;", printable(text)))


def collect_facets(parts: Iterable[Facets]) -> Facets:
    """Return all facets of the parts of a page, with the values of each in order of appearance."""
    found: dict[str, dict[str, None]] = {}
    for facets in parts:
        for name, values in facets.items():
            found.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: tuple(values) for name, values in found.items()}

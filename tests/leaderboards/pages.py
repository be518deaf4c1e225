"""Reads what was rendered back: tables of Markdown and of HTML, and figures at their traces."""

import re
from html.parser import HTMLParser

from dsmoe_eval.leaderboards.submission import read_entry


class _Page(HTMLParser):
    """Cells of every table, as (text, trace, sort); and all other texts with a trace."""

    def __init__(self):
        super().__init__()
        self.tables, self.traced, self._rows, self._cell = {}, [], None, None

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "table":
            self._rows = self.tables[found["id"]] = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = ["", found.get("data-t", ""), found.get("data-s")]
        elif "data-t" in found:
            self.traced.append(found["data-t"])

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[0] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append(tuple(self._cell))
            self._cell = None
        elif tag == "table":
            self._rows = None


def read_page(path):
    """Tables by id, header first; and the other traces."""
    page = _Page()
    page.feed(path.read_text())
    return page.tables, page.traced


def read_markdown(path):
    """Every table of a README, as rows of cells, header first, without its rule."""
    tables, rows = [], None
    for line in path.read_text().splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if rows is None:
            rows = []
            tables.append(rows)
        if not all(re.fullmatch(r"-+:?", cell) for cell in cells):
            rows.append(cells)
    return tables


def figure_at(root, trace):
    """The figure that a trace leads to in the entry, or that follows from it; of `[*]` the mean."""
    file, run, path = re.match(r"(\S+\.json): run (\w+), ([^;]+)", trace).groups()
    (result,) = (one for one in read_entry(root / file).results if one.run_id == run)
    kind, key, *_ = re.match(r"(\w+)\[([^\]]+)\]", path).groups()
    below = path.partition("].")[2].split(".")
    name = "task" if kind == "base" else "target"
    rows = [row for row in getattr(result, kind) if key in ("*", getattr(row, name))]
    values = []
    for row in rows:
        value = row
        for part in below:
            value = getattr(value, part)
        values.append(value)
    return sum(values) / len(values)

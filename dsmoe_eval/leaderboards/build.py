"""Renders the leaderboards of a folder: `README.md`, its pictures, and `index.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..errors import UserError
from ..files import write_text
from ..reports import figures
from ..reports.items import clear_items, write_item_files
from ..reports.page import ItemFile, html_environment
from ..reports.table import Table, write_markdown
from ..results import RunFolder
from .board import Board, boards
from .board_tables import TRUST
from .checks import check_entries, read_entries
from .entries import SubmittedRun, submitted_runs
from .ranking import model_names
from .submission import identity_of, samples_hash

_HARMLESS = ("stale-page", "unexpected-file")
"""Findings that do not keep a page from being right."""


@dataclass(frozen=True, slots=True)
class Built:
    """What was written.

    Attributes:
        page: `index.html`.
        items: side files, with the items of the runs that were given.
        without: runs that the page shows without their items, as `folder (run id)`.
    """

    page: Path
    items: tuple[ItemFile, ...]
    without: tuple[str, ...]


def build(root: Path, runs: Sequence[Path] = ()) -> Built:
    """Render every suite.

    Args:
        root: the leaderboards' folder.
        runs: folders of runs whose items the page can show; they are found by their cells.

    Raises:
        UserError: `check_leaderboards` finds figures that are wrong, or a run's samples are not
            those that were submitted.
    """
    files = read_entries(root)
    wrong = [one for one in check_entries(files) if one.rule not in _HARMLESS]
    if wrong:
        raise UserError(f"{root}: {wrong[0]}; {len(wrong)} finding(s), see leaderboard check")
    runs_submitted = submitted_runs(files.entries)
    if not runs_submitted:
        raise UserError(f"{root}: holds no result; submit a run first: leaderboard add")
    shown = boards(runs_submitted)
    found, models = {run: _find(run, runs_submitted) for run in runs}, model_names(runs_submitted)
    clear_items(root)
    items = tuple(
        file
        for run, submitted in found.items()
        for file in _items(run, submitted, models[submitted.folder], root)
    )
    has = {(one.folder, one.run_id) for one in found.values()}
    without = tuple(
        f"{one.folder} (run {one.run_id})"
        for one in runs_submitted
        if (one.folder, one.run_id) not in has
    )
    values = {
        "boards": shown,
        "trust": TRUST,
        "stamp": files.stamp,
        "facets": _facets(shown),
        "items": items,
        "without": without,
    }
    figures.style()
    for board in shown:
        figures.leaderboard_plot(board.forest, root / f"{board.suite}.png")
    write_text(root / "index.html", _html(values))
    write_markdown(root / "README.md", _markdown(values))
    return Built(root / "index.html", items, without)


def _html(values: Mapping[str, object]) -> str:
    page = html_environment()
    page.loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("dsmoe_eval.leaderboards"), page.loader or jinja2.BaseLoader()]
    )
    return page.get_template("index.html.j2").render(values)


def _markdown(values: Mapping[str, object]) -> str:
    text = jinja2.Environment(
        loader=jinja2.PackageLoader("dsmoe_eval.leaderboards"),
        autoescape=False,  # noqa: S701 - Markdown, where it would spoil the text
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text.filters["aligned"] = aligned
    return text.get_template("README.md.j2").render(values)


def aligned(table: Table) -> str:
    """Render a Markdown table whose columns line up in the source too."""
    header = [_plain(column.name) for column in table.columns]
    lines = [header, *([_plain(cell.text) for cell in row.cells] for row in table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [column.numeric for column in table.columns]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    padded = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def _plain(cell: str) -> str:
    """Escape text, so that no column ends early and nothing is markup."""
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _facets(shown: Sequence[Board]) -> dict[str, tuple[str, ...]]:
    rows = [row for board in shown for row in board.rows]
    values: Mapping[str, list[str]] = {
        "model": [row.model for row in rows],
        "domain": [target for row in rows for target in row.submitted.header.targets],
        "variant": [row.variant for row in rows],
        "mark": list(TRUST),
    }
    return {name: tuple(dict.fromkeys(own)) for name, own in values.items()}


def _find(run: Path, runs: Sequence[SubmittedRun]) -> SubmittedRun:
    """Find the submitted run of a folder by its identity, since two plans can share cells."""
    wanted = identity_of(run)
    for submitted in runs:
        if submitted.run_id == wanted:
            return submitted
    raise UserError(f"{run}: is no run that was submitted; add it first: leaderboard add {run}")


def _items(run: Path, submitted: SubmittedRun, model: str, root: Path) -> tuple[ItemFile, ...]:
    folder = RunFolder(run)
    for result in submitted.results.values():
        for cell, expected in result.samples.items():
            if samples_hash(folder, cell) != expected:
                raise UserError(
                    f"{folder.cell(cell)}: its samples are not those that were submitted in "
                    f"{submitted.folder}; restore them, or submit the run again: "
                    "leaderboard add --reason TEXT"
                )
    whole = submitted.run.result
    name = f"{model}, plan {whole.plan}, seed {whole.seed}"
    return write_item_files(folder, whole.base, whole.arms, root, name)

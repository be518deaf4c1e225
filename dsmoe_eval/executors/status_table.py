"""The status of the runs of a matrix for people: a table in a terminal, lines in a log."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..progress import clock_time, tell_repeatedly
from ..results.workers import FAILED, WorkerState
from .status import ANSWERED, FINISHED, STOPPED, WAITING, RunStatus, Watch

_COLOURS = {
    FAILED: "bold red", STOPPED: "red", FINISHED: "green", ANSWERED: "yellow", WAITING: "dim",
}  # fmt: skip
_REFRESH = 2.0
"""Seconds between two looks of a table in a terminal."""


def matrix_table(states: Sequence[RunStatus]) -> Table:
    """Return a table of runs: one row per model, and below it its workers if it has several."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("stage", overflow="fold")
    for name in ("done", "per s", "left", "cells"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("node", overflow="fold")
    for one in states:
        table.add_row(
            _text(one.model),
            _text(one.stage or one.state, _COLOURS.get(one.state, "")),
            *_progress(one.share, one),
            "" if one.state == WAITING and not one.cells else _cells(one, "/"),
            _text(", ".join(map(_short, one.nodes))),
        )
        for worker in one.workers if len(one.workers) > 1 else ():
            _add_worker(table, worker)
    return table


def remarks(states: Sequence[RunStatus]) -> list[Text]:
    """Return what there is to say below the table: failures with the ends of logs, cells twice."""
    lines = []
    for one in states:
        if one.text is not None:
            lines.append(_text(f"{one.model}: {one.text}", _COLOURS.get(one.state, "")))
        lines += [_text(f"    {line}", "dim") for line in one.log]
        if one.twice:
            lines.append(_text(f"{one.model}: {_twice(one)}"))
    return lines


def log_lines(states: Sequence[RunStatus]) -> list[str]:
    """Return one plain line per model, for a log, and more where one failed."""
    return [line for one in states for line in (_log_line(one), *(f"    {x}" for x in one.log))]


@contextmanager
def shown(console: Console, watch: Watch, failures: Mapping[str, str]) -> Iterator[None]:
    """Show a matrix as long as the code inside runs: a table in a terminal, else lines in a log.

    Lines appear every `progress.EVERY` seconds, if they are others than before.

    Args:
        console: where it is shown; what is printed on it meanwhile appears above the table.
        watch: the runs.
        failures: model -> the sentence of its failure; it may change meanwhile.
    """
    stop = threading.Event()
    show = _in_terminal if console.is_terminal else _in_log
    thread = threading.Thread(
        target=show, args=(console, watch, failures, stop), name="status", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _in_terminal(
    console: Console, watch: Watch, failures: Mapping[str, str], stop: threading.Event
) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while not stop.is_set():
            with suppress(OSError):  # of a network file system; the next look may read it
                live.update(_view(watch.look(dict(failures))), refresh=True)
            stop.wait(_REFRESH)
        with suppress(OSError):
            live.update(_view(watch.look(dict(failures))), refresh=True)


def _view(states: Sequence[RunStatus]) -> Group:
    return Group(matrix_table(states), *remarks(states))


def _in_log(
    console: Console, watch: Watch, failures: Mapping[str, str], stop: threading.Event
) -> None:
    said: list[str] = []

    def tell() -> None:
        with suppress(OSError):
            lines = log_lines(watch.look(dict(failures)))
            for line in lines:
                if line not in said:
                    console.print(Text(line), soft_wrap=True)
            said[:] = lines

    tell_repeatedly(tell, stop.wait)


def _log_line(one: RunStatus) -> str:
    words = [one.stage or one.state, f"{_cells(one, ' of ')} cells"]
    if one.share is not None:
        words[0] += f" {one.share:.0%} done"
    if one.rate is not None:
        words.append(f"{_figure(one.rate)} {one.unit} per second")
    if one.seconds_left is not None:
        words.append(f"about {clock_time(one.seconds_left)} left")
    if one.nodes:
        words.append(f"on {', '.join(one.nodes)}")
    if one.twice:
        words.append(_twice(one))
    line = f"{one.model}: {', '.join(words)}"
    return printable(line if one.text is None else f"{line}; {one.text}")


def _add_worker(table: Table, worker: WorkerState) -> None:
    stage, style, progress = str(worker.stage), "", ("", "", "")
    if worker.state == FAILED:
        stage, style = FAILED, _COLOURS[FAILED]
    elif not worker.lives:
        stage, style = f"silent {clock_time(worker.age)}", _COLOURS[STOPPED]
    else:
        progress = _progress(worker.done / worker.total if worker.total else None, worker)
    name, node = _text(f"  {worker.name}"), _text(_short(worker.node))
    table.add_row(name, _text(stage, style), *progress, "", node)


def _progress(share: float | None, one: RunStatus | WorkerState) -> tuple[str, str, str]:
    """Return what is done of a stage, the steps per second, and the time left."""
    return (
        "" if share is None else f"{share:.0%}",
        "" if one.rate is None else _figure(one.rate),
        "" if one.seconds_left is None else clock_time(one.seconds_left),
    )


def _cells(one: RunStatus, of: str) -> str:
    return f"{one.cells:,}{of}{'?' if one.cells_total is None else f'{one.cells_total:,}'}"


def _short(node: str) -> str:
    """Return the name of a machine without its domain; an address stays."""
    return node if node.replace(".", "").isdecimal() else node.partition(".")[0]


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}" if rate < 1 else f"{rate:.1f}"


def _twice(one: RunStatus) -> str:
    cells = "1 cell was" if one.twice == 1 else f"{one.twice:,} cells were"
    return f"{cells} answered twice; the first answers count"


def _text(words: str, style: str = "") -> Text:
    return Text(printable(words), style=style)

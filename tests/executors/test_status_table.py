"""The status for people: in a terminal of any width, and in a log."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dsmoe_eval import progress
from dsmoe_eval.executors import status_table
from dsmoe_eval.executors.status import RunStatus, Watch
from dsmoe_eval.executors.status_table import log_lines, matrix_table, remarks, shown
from dsmoe_eval.results.workers import WorkerState

from .runs_on_disk import add_cells, beat, begin

AT_WORK = RunStatus(
    "qwen3-80b-a3b-thinking", Path("out"), "working", "answer test items", 1034, 1650,
    0.625, 41.23, "answers", 4512.0,
    workers=(
        WorkerState("c0ffee-1", "10.0.0.1", 7, stage="answer test items", done=5, total=10),
        WorkerState("c0ffee-2", "b17.example.org", 8, age=45.0),
        WorkerState("c0ffee-3", "10.0.0.3", 9, "failed", text="no room"),
    ),
)  # fmt: skip
FAILED = RunStatus(
    "olmoe [red]1b[/]", Path("out"), "failed", cells=3, twice=2, text="worker a on n: \x1b[2J [b]",
    log=("00:37:25 [x] ends",),
)  # fmt: skip


def printed(width, states):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(matrix_table(states))
    for line in remarks(states):
        console.print(line, soft_wrap=True)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_has_models_and_the_workers_of_several():
    one = replace(AT_WORK, model="one", workers=AT_WORK.workers[:1])
    waiting = RunStatus("new", Path("out"), "waiting")
    assert printed(100, [AT_WORK, one, FAILED, waiting]) == [
        "model                   stage              done  per s     left        cells  node",
        "qwen3-80b-a3b-thinking  answer test items   62%   41.2  1:15:12  1,034/1,650  10.0.0.1",
        "  c0ffee-1              answer test items   50%                               10.0.0.1",
        "  c0ffee-2              silent 0:00:45                                        b17",
        "  c0ffee-3              failed                                                10.0.0.3",
        "one                     answer test items   62%   41.2  1:15:12  1,034/1,650  10.0.0.1",
        "olmoe [red]1b[/]        failed                                           3/?",
        "new                     waiting",
        "olmoe [red]1b[/]: worker a on n: \\x1b[2J [b]",
        "    00:37:25 [x] ends",
        "olmoe [red]1b[/]: 2 cells were answered twice; the first answers count",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_figures_are_whole_in_any_terminal(width):
    lines = printed(width, [AT_WORK])
    assert max(map(len, lines)) <= width
    assert "62%   41.2  1:15:12  1,034/1,650  10.0.0.1" in lines[1]


def test_lines_for_a_log():
    assert log_lines([AT_WORK, FAILED, replace(AT_WORK, model="x", rate=0.123, twice=1)]) == [
        "qwen3-80b-a3b-thinking: answer test items 62% done, 1,034 of 1,650 cells, 41.2 answers "
        "per second, about 1:15:12 left, on 10.0.0.1",
        "olmoe [red]1b[/]: failed, 3 of ? cells, 2 cells were answered twice; the first answers "
        "count; worker a on n: \\x1b[2J [b]",
        "    00:37:25 [x] ends",
        "x: answer test items 62% done, 1,034 of 1,650 cells, 0.12 answers per second, about "
        "1:15:12 left, on 10.0.0.1, 1 cell was answered twice; the first answers count",
    ]


@pytest.fixture
def watch(tmp_path):
    folder = begin(tmp_path)
    beat(folder, "a", stage="s", cells=9)
    return Watch({"m": tmp_path})


def until(seen):
    """Wait until something is seen; the machine may be busy."""
    for _ in range(1000):
        if seen():
            return
        time.sleep(0.01)
    pytest.fail("not seen in ten seconds")


def test_without_a_terminal_lines_appear_when_they_are_others(tmp_path, watch, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.02)
    console, failures = Console(file=io.StringIO()), {}
    with shown(console, watch, failures):
        until(lambda: "0 of 9" in console.file.getvalue())
        add_cells(begin(tmp_path), 1)
        until(lambda: "1 of 9" in console.file.getvalue())
        time.sleep(0.1)
        (tmp_path / "workers" / "a.json").write_text('{"state": "failed"}')
        failures["m"] = "[no] room"
        until(lambda: "failed" in console.file.getvalue())
    assert console.file.getvalue().splitlines() == [
        "m: s, 0 of 9 cells, on node-a",
        "m: s, 1 of 9 cells, on node-a",
        "m: failed, 0 of ? cells; [no] room",
    ]


def test_in_a_terminal_a_table_is_refreshed_below_what_is_printed(tmp_path, watch, monkeypatch):
    monkeypatch.setattr(status_table, "_REFRESH", 0.02)
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with shown(console, watch, {}):
        until(lambda: "0/9" in console.file.getvalue())
        console.print("said meanwhile")
        add_cells(begin(tmp_path), 7)
        until(lambda: "7/9" in console.file.getvalue())
        status_table._REFRESH = 1.0
        add_cells(begin(tmp_path), 8)  # the last look is at the end
    said = console.file.getvalue()
    assert said.index("0/9") < said.index("said meanwhile") < said.index("7/9") < said.index("8/9")
    assert said.count("said meanwhile") == 1


def test_a_folder_that_cannot_be_read_for_a_moment_ends_nothing(watch, monkeypatch):
    monkeypatch.setattr(status_table, "_REFRESH", 0.02)
    look, errors = watch.look, [OSError("server not responding")] * 3

    def failing(failures):
        if errors:
            raise errors.pop()
        return look(failures)

    monkeypatch.setattr(watch, "look", failing)
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with shown(console, watch, {}):
        until(lambda: "0/9" in console.file.getvalue())
    assert not errors

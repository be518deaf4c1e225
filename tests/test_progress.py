"""Stages as they go on: lines off a terminal, bars at one, records for the log; no test waits."""

import io
import json
import threading

import pytest
from rich.console import Console

from dsmoe_eval import progress
from dsmoe_eval.log import log_file
from dsmoe_eval.progress import EVERY, Steps, counted_as, progress_bar, tell_repeatedly


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_time_left_follows_from_what_was_done_in_this_start():
    clock = Clock()
    steps = Steps("tune", 100, "answers", clock)
    steps.skip(40)
    clock.now += 30
    assert steps.seconds_left is None
    steps(20)
    assert (steps.done, steps.seconds) == (60, 30)
    assert steps.seconds_left == 30 / 20 * 40


def test_a_stage_is_told_at_least_once_a_minute():
    clock, lines = Clock(), []
    steps = Steps("tune", 8_000, "answers", clock)

    def stopped_within(seconds):
        clock.now += seconds
        steps(2_000)
        return steps.done > 6_000

    tell_repeatedly(lambda: lines.append((clock.now, progress._so_far(steps))), stopped_within)
    assert [when - 100 for when, _ in lines] == [EVERY, 2 * EVERY, 3 * EVERY]
    assert EVERY < 60
    assert lines[0][1] == "2,000 of 8,000 answers in 0:00:50, about 0:02:30 left"


def off_a_terminal():
    return Console(file=io.StringIO(), force_terminal=False, width=20)


def said(console):
    return console.file.getvalue().splitlines()


def test_lines_off_a_terminal_while_a_stage_does_nothing_that_it_could_tell(monkeypatch):
    """The lines come from the time that passes, and not from steps."""
    monkeypatch.setattr(progress, "EVERY", 0.001)
    told, console = threading.Event(), off_a_terminal()
    write = console.file.write
    monkeypatch.setattr(
        console.file, "write", lambda text: (write(text), "not known" in text and told.set())
    )
    with progress_bar(console, "answer [b]test[/b] items", 7, "answers") as steps:
        assert told.wait(60)
        steps(7)
    first, *between, last = said(console)
    assert first == "answer [b]test[/b] items: begins, 7 answers"  # no markup, and in one line
    assert between[0].startswith("answer [b]test[/b] items: 0 of 7 answers in 0:0")
    assert between[0].endswith(", time left not known yet")
    assert last.startswith("answer [b]test[/b] items: done, 7 answers in 0:0")


def test_a_stage_that_fails_says_where_it_stopped(tmp_path):
    console = off_a_terminal()

    def fail():
        with (
            log_file(tmp_path / "log.jsonl"),
            progress_bar(console, "tune", 7, "answers") as steps,
        ):
            steps(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert said(console)[-1].startswith("tune: stopped, 3 of 7 answers in 0:0")
    begins, stopped, error = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (begins["message"], begins["stage"]) == ("stage begins", "tune")
    assert (stopped["message"], stopped["stage"]) == ("stage stopped", "tune")
    assert (stopped["fields"]["done"], stopped["fields"]["total"]) == (3, 7)
    assert (error["message"], error["stage"]) == ("ended by an error", None)


def test_a_bar_at_a_terminal_and_no_lines(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with log_file(tmp_path / "log.jsonl"), progress_bar(console, "[i]tune", 9, "answers") as steps:
        steps(4)
        steps.skip(5)
    shown = console.file.getvalue()
    assert "[i]tune" in shown
    assert "9/9" in shown
    assert "begins" not in shown
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["message"] for row in rows] == ["stage begins", "stage ends"]


def test_a_quiet_console_says_nothing():
    console = Console(file=io.StringIO(), force_terminal=False, quiet=True)
    with progress_bar(console, "tune", 1) as steps:
        steps(1)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("batches", [[12], [5, 7], [1] * 12, [12, 12], [], [3]])
def test_requests_count_as_the_answers_that_they_make(batches):
    """Three answers of four options each, however they are batched, counted twice, or not."""
    told = []
    with counted_as(told.append, 3, 12) as count:
        for batch in batches:
            count(batch)
        assert sum(told) == min(3, sum(batches) * 3 // 12)
    assert sum(told) == 3


def test_requests_of_what_failed_are_not_topped_up():
    told = []

    def fail():
        with counted_as(told.append, 3, 12) as count:
            count(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert told == [1]

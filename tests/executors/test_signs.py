"""Whether workers live is seen without trust in the clock of this machine."""

import os
import time

import pytest

from dsmoe_eval.executors.signs import Signs
from dsmoe_eval.results.workers import LEASE


@pytest.fixture
def clock(monkeypatch):
    """A clock of this process that only the test moves, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def beats(tmp_path):
    """Write the file of a worker, with a time as many seconds ago as given, by this clock."""

    def write(name, ago=0.0):
        path = tmp_path / name
        path.write_text("")
        os.utime(path, (time.time() - ago,) * 2)
        return path

    return write


def lives(signs, path):
    return signs.age(path) <= LEASE


def test_with_the_clock_in_agreement_one_look_says_it(beats):
    signs, fresh, old = Signs(), beats("a", 2), beats("b", 50)
    signs.see([fresh, old])
    assert lives(signs, fresh)
    assert not lives(signs, old)
    assert not signs.unsure


@pytest.mark.parametrize("skew", [-600, 600])
def test_with_another_clock_a_second_look_says_it(beats, clock, skew):
    signs = Signs()
    alive, dead = beats("a", skew), beats("b", skew + 40)
    signs.see([alive, dead])
    assert signs.unsure
    clock[0] += 3
    beats("a", skew - 3)
    signs.see([alive, dead])
    assert not signs.unsure
    assert lives(signs, alive)
    assert not lives(signs, dead)


@pytest.mark.parametrize("skew", [-600, 600])
def test_files_that_nobody_writes_are_those_of_the_dead_on_any_clock(beats, clock, skew):
    signs, path = Signs(), beats("a", skew)
    for _ in range(4):
        signs.see([path])
        assert not lives(signs, path)
        clock[0] += 3
    assert signs.unsure  # as long as one watches: it could still begin to write


def test_what_is_hours_old_is_not_waited_for(beats):
    signs, path = Signs(), beats("a", 7200)
    signs.see([path])
    assert not signs.unsure
    assert not lives(signs, path)


def test_one_that_stops_while_it_is_watched_dies_after_the_lease(beats, clock):
    """Its file may have any time: what counts is when this process saw it change."""
    signs = Signs()
    for ago in (99, 96):
        path = beats("a", ago)
        signs.see([path])
    assert lives(signs, path)
    clock[0] += LEASE
    signs.see([path])
    assert lives(signs, path)
    clock[0] += 1
    signs.see([path])
    assert not lives(signs, path)


def test_one_that_never_beats_again_while_it_is_watched_dies(beats, clock):
    signs, path = Signs(), beats("a", 1)  # new by the clock, which is no proof after a while
    signs.see([path])
    assert lives(signs, path)
    clock[0] += LEASE + 1
    signs.see([path])
    assert not lives(signs, path)


def test_one_that_ends_between_two_reads_does_no_harm(tmp_path):
    signs = Signs()
    signs.see([tmp_path / "gone"])
    assert signs.age(tmp_path / "gone") == 0.0
    assert not signs.unsure

"""Workers share pieces: each is done once, also where workers die."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.results import workers as states
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import leases, workers
from dsmoe_eval.runs.leases import ALONE, MOST_ATTEMPTS, Piece, Shard, Shared
from dsmoe_eval.runs.workers import Worker, read_workers


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.05)
    monkeypatch.setattr(states, "LEASE", 0.6)
    monkeypatch.setattr(leases, "LEASE", 0.6)
    monkeypatch.setattr(leases, "_PAUSE", 0.02)


def pieces_of(root, count, did, seconds=0.0):
    """Pieces that leave a file each, and note who did them."""

    def do(number):
        did.append(number)
        time.sleep(seconds)
        (root / f"piece-{number}").write_text("")

    return [
        Piece(f"p{n}", (root / f"piece-{n}").exists, partial(do, n), lambda: None)
        for n in range(count)
    ]


@pytest.fixture
def shared(tmp_path):
    """Start a worker that lives until the test ends."""
    with ExitStack() as stack:

        def start(name, shard=None):
            worker = Worker(tmp_path, name)
            stack.enter_context(worker.working())
            return Shared(tmp_path, worker, shard)

        yield start


def test_workers_at_once_do_each_piece_once(tmp_path, shared):
    did = []
    threads = [
        threading.Thread(target=shared(name).share, args=[pieces_of(tmp_path, 40, did, 0.002)])
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(did) == list(range(40))
    assert not list((tmp_path / "leases").iterdir())


def test_alone_all_are_done_in_order_and_what_is_there_is_skipped(tmp_path):
    did, skipped = [], []
    pieces = pieces_of(tmp_path, 4, did)
    (tmp_path / "piece-1").write_text("")
    ALONE.share([Piece(p.key, p.done, p.do, partial(skipped.append, p.key)) for p in pieces])
    assert (did, skipped) == ([0, 2, 3], ["p1"])
    with ALONE.turn("x"):
        pass


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.lists(st.text(min_size=1), max_size=30))
def test_each_piece_is_in_one_shard(of, keys):
    shards = [Shard(index, of) for index in range(1, of + 1)]
    assert all(sum(shard.has(key) for shard in shards) == 1 for key in keys)


@pytest.mark.parametrize("index", [0, 5, -1])
def test_a_shard_that_is_not_there_is_refused(index):
    with pytest.raises(UserError, match=f"shard {index}/4: give one from 1/4"):
        Shard(index, 4)


def test_shards_do_their_cells_and_all_that_is_no_cell(tmp_path, shared):
    did = []
    one, two = shared("a", Shard(1, 2)), shared("b", Shard(2, 2))
    one.share(pieces_of(tmp_path, 20, did), by_shard=True)
    first = list(did)
    assert 0 < len(first) < 20
    two.share(pieces_of(tmp_path, 20, did), by_shard=True)
    assert sorted(did) == list(range(20))
    (tmp_path / "other").mkdir()
    again = []
    one.share(pieces_of(tmp_path / "other", 3, again))
    assert sorted(again) == [0, 1, 2]


KILLED = """
import sys, time
from pathlib import Path
from dsmoe_eval.runs import workers
workers.BEAT = 0.05
from dsmoe_eval.runs.leases import Shared
worker = workers.Worker(Path(sys.argv[1]), "dead")
with worker.working(), Shared(Path(sys.argv[1]), worker).turn("p0"):
    print("leased", flush=True)
    time.sleep(60)
"""


def leased_by_another(root, stop=signal.SIGKILL):
    """Let a process lease the first piece, and then kill it, or stop it."""
    command = [sys.executable, "-c", KILLED, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - this test's code
    assert process.stdout.readline() == b"leased\n"
    os.kill(process.pid, stop)
    if stop == signal.SIGKILL:
        process.wait()
    return process


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_the_piece_of_a_worker_that_beats_no_more_is_taken_over(tmp_path, shared, stop):
    process = leased_by_another(tmp_path, stop)
    try:
        did, began = [], time.monotonic()
        shared("a").share(pieces_of(tmp_path, 1, did))
        assert did == [0]
        assert time.monotonic() - began > 0.2  # it was waited for
    finally:
        process.kill()


def test_a_worker_that_is_started_again_does_not_wait_for_itself(tmp_path, shared, monkeypatch):
    leased_by_another(tmp_path)
    monkeypatch.setattr(states, "LEASE", 3600.0)
    did = []
    shared("dead").share(pieces_of(tmp_path, 1, did))
    assert did == [0]


def test_a_worker_that_failed_is_not_waited_for(tmp_path, shared, monkeypatch):
    monkeypatch.setattr(states, "LEASE", 3600.0)
    worker = Worker(tmp_path, "failed")
    RunFolder(tmp_path).lease("p0", 0).parent.mkdir(parents=True)
    RunFolder(tmp_path).lease("p0", 0).write_text("failed")
    with pytest.raises(UserError, match="a sentence"), worker.working():
        raise UserError("a sentence")
    (state,) = read_workers(RunFolder(tmp_path))
    assert (state.state, state.text) == ("failed", "a sentence")
    did = []
    shared("a").share(pieces_of(tmp_path, 1, did))
    assert did == [0]


def test_a_piece_on_which_workers_die_stops_the_run(tmp_path, shared):
    folder = RunFolder(tmp_path)
    folder.leases.mkdir()
    for attempt in range(MOST_ATTEMPTS):
        folder.lease("p0", attempt).write_text("dead")
    with pytest.raises(UserError, match="5 workers died on p0"):
        shared("a").share(pieces_of(tmp_path, 1, []))


def test_an_error_gives_the_piece_back(tmp_path, shared):
    def fail():
        raise UserError("no")

    with pytest.raises(UserError):
        shared("a").share([Piece("p0", lambda: False, fail, lambda: None)])
    did = []
    shared("b").share(pieces_of(tmp_path, 1, did))
    assert did == [0]


def test_a_lease_of_which_the_name_is_not_written_yet_counts(tmp_path, shared):
    folder = RunFolder(tmp_path)
    folder.leases.mkdir()
    folder.lease("p0", 0).write_text("")
    did, began = [], time.monotonic()
    shared("a").share(pieces_of(tmp_path, 1, did))
    assert did == [0]
    assert time.monotonic() - began > 0.3


def test_a_late_worker_does_not_remove_the_lease_of_its_follower(tmp_path):
    folder = RunFolder(tmp_path)
    folder.leases.mkdir()
    first, second = folder.lease("p0", 0), folder.lease("p0", 1)
    first.write_text("slow")
    with leases._released(first, "slow"):
        second.write_text("follower")
    assert first.exists()
    assert second.exists()


def test_a_worker_that_was_started_again_keeps_nothing_that_it_has_done(tmp_path, shared):
    """The lease of its first start is gone with that of its second: else others wait for its end,
    and it for a piece of theirs.
    """
    leases._make(RunFolder(tmp_path).lease("p0", 0), "dead")
    with shared("dead").turn("p0"):
        pass
    assert not any((tmp_path / "leases").iterdir())
    with shared("a").turn("p0"):
        pass


def test_a_late_worker_does_not_remove_the_lease_of_the_next_but_one(tmp_path):
    first = RunFolder(tmp_path).lease("p0", 0)
    leases._make(first, "slow")
    with leases._released(first, "slow"):
        with leases._released(RunFolder(tmp_path).lease("p0", 1), "follower"):
            leases._make(RunFolder(tmp_path).lease("p0", 1), "follower")
        assert not any((tmp_path / "leases").iterdir())
        leases._make(first, "next")
    assert first.read_text() == "next"


def test_one_at_a_time(tmp_path, shared):
    inside, most = [], []

    def take(name):
        with shared(name).turn("x"):
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(name)

    threads = [threading.Thread(target=take, args=[name]) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6

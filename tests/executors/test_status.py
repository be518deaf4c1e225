"""What runs do, by what their workers leave."""

import json
import threading
import time

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import status
from dsmoe_eval.executors.status import Watch, find_runs
from dsmoe_eval.files import LOCK, lock_folder, write_json
from dsmoe_eval.results.manifest import TWICE
from dsmoe_eval.results.workers import LEASE
from dsmoe_eval.runs.leases import Shard

from .runs_on_disk import add_cells, add_log, beat, begin, finish

DEAD = LEASE + 20


def look(root, failures=None):
    (found,) = Watch({"m": root}).look(failures)
    return found


def test_runs_are_the_folder_or_its_subfolders(tmp_path):
    with pytest.raises(UserError, match="has no run; give the folder of a run"):
        find_runs(tmp_path / "nowhere")
    begin(tmp_path / "x" / "a", "org/a")
    beat(begin(tmp_path / "x" / "b"), "w")
    (tmp_path / "x" / "report").mkdir()
    assert find_runs(tmp_path / "x") == {
        "org/a": tmp_path / "x" / "a",
        "lab-poly": tmp_path / "x" / "b",
    }
    assert find_runs(tmp_path / "x" / "a") == {"org/a": tmp_path / "x" / "a"}
    begin(tmp_path / "x" / "c")  # two of one model: their folders tell them apart
    assert list(find_runs(tmp_path / "x")) == ["org/a", "b", "c"]


def test_one_worker(tmp_path):
    folder = begin(tmp_path)
    at = {"stage": "tune arms", "done": 30, "total": 40, "unit": "answers", "rate": 2.0}
    beat(folder, "local", cells=12, seconds_left=5.0, **at)
    add_cells(folder, 4)
    found = look(tmp_path)
    assert (found.state, found.stage, found.cells, found.cells_total) == (
        "working", "tune arms", 4, 12,
    )  # fmt: skip
    assert (found.rate, found.unit, found.share, found.seconds_left) == (2.0, "answers", 0.75, 5.0)
    assert (found.nodes, found.text) == (("node-a",), None)


def test_workers_share_what_is_left_and_shards_do_not(tmp_path):
    folder = begin(tmp_path)
    first = {"stage": "s", "total": 100, "done": 60, "rate": 3.0, "seconds_left": 13.3}
    second = {"stage": "s", "total": 100, "done": 40, "rate": 1.0, "seconds_left": 60.0}
    beat(folder, "a", cells=9, node="n2", **first)
    beat(folder, "b", cells=9, node="n1", **second)
    beat(folder, "c")  # it loads
    found = look(tmp_path)
    assert (found.stage, found.rate, found.share, found.seconds_left) == ("s", 4.0, 0.6, 10.0)
    assert found.nodes == ("n1", "n2", "node-a")
    for name in "abc":
        folder.worker(name).unlink()
    beat(folder, Shard(1, 2).worker, **first)
    beat(folder, Shard(2, 2).worker, **second)
    found = look(tmp_path)
    assert (found.rate, found.share, found.seconds_left) == (4.0, 0.4, 60.0)


def test_stages_outside_the_stages(tmp_path):
    folder = begin(tmp_path)
    beat(folder, "a")
    assert look(tmp_path).stage == "loading"
    beat(folder, "a", cells=2)
    assert look(tmp_path).stage == "between stages"
    add_cells(folder, 2)
    assert look(tmp_path).stage == "comparing"
    write_json(folder.comparisons, {})
    assert look(tmp_path).stage == "between stages"


def test_finished(tmp_path):
    folder = begin(tmp_path)
    finish(folder, 3)
    found = look(tmp_path)
    assert (found.state, found.cells, found.cells_total, found.workers) == ("finished", 3, 3, ())
    beat(folder, "a", stage="s")  # it was started again
    assert look(tmp_path).state == "working"


def test_failed_with_its_node_and_the_end_of_its_log(tmp_path):
    folder = begin(tmp_path)
    beat(folder, "a", DEAD, state="failed", text="no room", node="n1")
    beat(folder, "b", DEAD)
    add_log(folder, "a", ("stage begins", {"total": 3}))
    found = look(tmp_path)
    assert (found.state, found.text) == ("failed", "worker a on n1 failed: no room")
    assert found.log == ("00:37:25 stage begins total=3",)
    beat(folder, "b", stage="s")  # another goes on
    found = look(tmp_path)
    assert (found.state, found.text) == ("working", "worker a on n1 failed: no room")


def test_a_failure_that_only_the_driver_knows(tmp_path):
    found = look(tmp_path / "m", {"m": "no room"})
    assert (found.state, found.text) == ("failed", "no room")
    folder = begin(tmp_path / "m")
    beat(folder, "a", state="failed", text="no room")
    assert look(tmp_path / "m", {"m": "no room"}).text == "worker a on node-a failed: no room"
    beat(folder, "a", DEAD)
    found = look(tmp_path / "m", {"m": "a worker died 4 times"})
    assert (found.state, found.nodes) == ("failed", ("node-a",))
    assert found.text == "a worker died 4 times; worker a on node-a gives no sign any more"


def test_stopped(tmp_path):
    folder = begin(tmp_path)
    assert look(tmp_path).text == "nobody works on it; start the same command again"
    add_log(folder, None, ("run begins", {"cells": 9}))
    assert look(tmp_path).cells_total == 9
    beat(folder, "local", DEAD, cells=9, stage="s")
    add_log(folder, "a", ("stage begins", {}))
    found = look(tmp_path)
    assert (found.state, found.stage, found.cells_total) == ("stopped", None, 9)
    assert found.text == (
        "worker local on node-a gives no sign any more; start the same command again"
    )
    assert found.log == ("00:37:25 run begins cells=9",)


def test_shards_are_done_but_not_compared(tmp_path):
    folder = begin(tmp_path)
    ends = ("run begins", {"cells": 3}), ("run ends", {})
    add_log(folder, Shard(1, 2).worker, *ends)
    add_cells(folder, 1)
    assert look(tmp_path).state == "stopped"
    add_log(folder, Shard(2, 2).worker, *ends)
    found = look(tmp_path)  # a stability plan has cells of arms without experts that never come
    assert (found.state, found.cells, found.cells_total) == ("answered", 1, 3)
    assert "without --shard" in found.text


def test_all_cells_and_no_comparisons_is_answered(tmp_path):
    folder = begin(tmp_path)
    add_log(folder, Shard(1, 2).worker, ("run begins", {"cells": 3}))
    add_cells(folder, 3)
    assert look(tmp_path).state == "answered"


def test_waiting(tmp_path):
    assert (look(tmp_path / "m").state, look(tmp_path / "m").text) == ("waiting", None)
    unlock = lock_folder(tmp_path / "m")  # by a driver, which is this process
    folder = begin(tmp_path / "m")
    assert (look(tmp_path / "m").state, look(tmp_path / "m").text) == ("waiting", None)
    beat(folder, "w", DEAD)
    gone = "worker w on node-a gives no sign any more"
    assert (look(tmp_path / "m").state, look(tmp_path / "m").text) == ("waiting", gone)
    unlock()
    assert look(tmp_path / "m").state == "stopped"
    (tmp_path / "m" / LOCK).write_text("process 12 on elsewhere")
    found = look(tmp_path / "m")
    words = f"process 12 on elsewhere has its folder, and no worker works; {gone}"
    assert (found.state, found.text) == ("waiting", words)
    folder.worker("w").unlink()
    beat(folder, "local", DEAD)  # of a run in one process, which is the process
    assert look(tmp_path / "m").state == "stopped"


def test_cells_answered_twice(tmp_path):
    folder = begin(tmp_path)
    add_log(folder, "a", (TWICE, {"part": "cells/1"}))
    add_log(folder, "b", (TWICE, {"part": "cells/2"}))
    assert look(tmp_path).twice == 2


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "workers/a.json"])
def test_damage_of_one_run_does_not_hide_the_others(tmp_path, name):
    for model in ("a", "b"):
        finish(begin(tmp_path / model, model), 2)
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).write_text("{")
    first, second = Watch({"a": tmp_path / "a", "b": tmp_path / "b"}).look()
    assert first.state == "failed"
    assert f"{name}: damaged" in first.text
    assert second.state == "finished"


def test_a_clock_minutes_away_does_not_make_the_living_dead(tmp_path, monkeypatch):
    """The file system's clock is ten minutes late; a worker beats, and is seen after a moment."""
    monkeypatch.setattr(status, "BEAT", 0.3)
    folder, stop = begin(tmp_path), threading.Event()

    def beats():
        late = 600.0
        while not stop.wait(0.1):
            late -= 0.1
            beat(folder, "a", late, stage="s")

    beat(folder, "a", 600.5, stage="s")
    thread = threading.Thread(target=beats)
    thread.start()
    try:
        (found,) = Watch({"m": tmp_path}).settled()
    finally:
        stop.set()
        thread.join()
    assert (found.state, found.stage) == ("working", "s")
    (found,) = Watch({"m": tmp_path}).settled()
    assert found.state == "stopped"


def test_json_has_the_same_keys_always(tmp_path):
    folder = begin(tmp_path / "a")
    beat(folder, "a", stage="s", cells=3)
    beat(folder, "b", DEAD)
    states = Watch({"a": tmp_path / "a", "b": tmp_path / "b"}).look()
    one, other = json.loads(json.dumps([state.to_dict() for state in states]))
    assert one.keys() == other.keys()
    assert set(one) == {
        "model", "folder", "state", "stage", "cells", "cells_total", "share", "rate", "unit",
        "seconds_left", "twice", "text", "log", "workers", "nodes",
    }  # fmt: skip
    assert [(w["name"], w["state"]) for w in one["workers"]] == [("a", "working"), ("b", "stopped")]
    assert set(one["workers"][0]) == {
        "name", "node", "process", "state", "stage", "done", "total", "unit", "rate",
        "seconds_left", "cells", "open", "text",
    }  # fmt: skip


def test_a_folder_that_changes_while_it_is_read(tmp_path):
    """Files appear and disappear: each look gives a state, and no error."""
    folder, stop = begin(tmp_path), threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            beat(folder, f"w{number % 3}", stage="s")
            add_log(folder, f"w{number % 3}", ("run begins", {"cells": 9}))
            folder.worker(f"w{(number + 1) % 3}").unlink(missing_ok=True)
            if number % 5 == 0:
                folder.absorb()  # the folder of workers is gone, too

    thread = threading.Thread(target=change)
    thread.start()
    try:
        watch = Watch({"m": tmp_path})
        states = set()
        for look in range(20_000):
            states.add(watch.look()[0].state)
            if look > 300 and len(states) == 2:
                break
            time.sleep(0.0005)  # lets the other thread go on
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    assert states == {"working", "stopped"}

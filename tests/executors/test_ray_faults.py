"""Each fault of a cluster, on a real one: nothing is lost, nothing done twice without need."""

import random
import subprocess

import pytest

from dsmoe_eval.results.folder import RunFolder

from ..cluster import cluster, wait_for
from .trials import CELL, Trial, small_plan

pytestmark = [pytest.mark.full, pytest.mark.ray]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    variants = ["dsmoe", "dsmoe-bias", "contrast", "random"]
    return small_plan(tmp_path_factory.mktemp("plan"), variants, limit=160)


@pytest.fixture
def begin(plan, tmp_path):
    """Start a driver on a cluster: `begin(cluster)`, `begin(cluster, "another folder")`."""

    def start(made, name="run"):
        trial = Trial(made, plan, RunFolder(tmp_path / name), tmp_path / f"{name}.txt")
        trial.start()
        return trial

    return start


def starts(trial):
    """How often a worker began."""
    return sum(record["message"] == "run begins" for record in trial.log())


def test_a_worker_is_killed(begin):
    with cluster(nodes=1) as made:
        trial = begin(made)
        node, worker = trial.at_work()[0]
        node.signal(worker.process, "KILL")
        trial.end()
    trial.check(in_work=1)
    assert starts(trial) == 2  # the same worker, which Ray started again


def test_a_node_is_lost(begin):
    with cluster() as made:
        trial = begin(made)
        trial.at_work(2)[0][0].kill()
        trial.end()
    trial.check(in_work=1)


def test_the_driver_is_killed_and_started_again(begin):
    with cluster() as made:
        trial = begin(made)
        trial.at_work(2)
        trial.kill_driver()
        trial.start()
        trial.end()
    trial.check(in_work=2)


def test_a_node_that_comes_late_is_used(begin):
    with cluster(nodes=1) as made:
        trial = begin(made)
        node, worker = wait_for(lambda: with_open_pieces(trial), "there are open pieces", 240)
        node.signal(worker.process, "STOP")  # so that the other one finds work, however slow it is
        late = made.add(core=1)
        wait_for(lambda: late in [node for node, _ in trial.at_work()], "the node is used", 240)
        node.signal(worker.process, "CONT")
        trial.end()
    trial.check(in_work=1)


def test_a_full_disk_on_one_node(begin):
    with cluster(nodes=1) as made:
        trial, full = begin(made), made.machine(core=1)
        ((node, worker),) = trial.at_work()
        node.signal(worker.process, "STOP")  # so that the other one finds work, however slow it is
        cells = trial.folder.root / "cells"
        cells.mkdir(exist_ok=True)
        assert (
            full.run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(cells)).returncode == 0
        )
        assert full.run(*made.ray_start(full)).returncode == 0
        words = f"another worker takes over ({full.name}: "
        wait_for(lambda: words in trial.said.read_text(), "the disk is full", 240)
        node.signal(worker.process, "CONT")
        said = trial.end()
    trial.check(in_work=1)
    assert "No space left on device" in said
    assert starts(trial) == 2  # none on that node after the first


def test_a_straggler_is_overtaken(begin):
    with cluster() as made:
        trial = begin(made)
        node, worker = trial.at_work(2)[1]

        def stopped_in_a_cell():
            node.signal(worker.process, "STOP")
            leases = trial.folder.leases.glob(f"{CELL}.0")
            if mine := [path for path in leases if path.read_text() == worker.name]:
                return mine
            node.signal(worker.process, "CONT")
            return None

        (lease,) = wait_for(stopped_in_a_cell, "it is stopped within a cell")
        wait_for(lease.with_suffix(".1").exists, "another worker takes over", 120)
        node.signal(worker.process, "CONT")
        said = trial.end()
    trial.check(in_work=1)
    assert trial.twice() == 1
    assert "1 cell was answered twice" in said


def test_ten_kills_at_random_moments(begin):
    chosen, kills, runs = random.Random(0), 0, 0
    with cluster() as made:
        while kills < 10:
            runs += 1
            trial, before = begin(made, f"run{runs}"), kills
            while not ended_within(trial, chosen.uniform(5, 25)):
                kills += kills < 10 and kill_something(made, trial, chosen)
            trial.end()
            trial.check(in_work=2 * (kills - before))
    assert runs < 10


def with_open_pieces(trial):
    """A worker whose file says that a further one would find work, with its node."""
    return next((found for found in trial.workers() if (found[1].open or 0) > 3), None)


def ended_within(trial, seconds):
    try:
        trial.driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_something(made, trial, chosen):
    """Kill a worker, a node, for which another one comes, or the driver; return whether it did."""
    what = chosen.choice(["worker", "worker", "node", "driver"])
    if what == "driver":
        trial.kill_driver()
        trial.start()
        return True
    if not (workers := trial.workers()):
        return False
    node, worker = chosen.choice(workers)
    if what == "worker":
        node.signal(worker.process, "KILL")
    else:
        node.kill()
        made.add(made.nodes.index(node) - 1)
        made.nodes.remove(node)
    return True

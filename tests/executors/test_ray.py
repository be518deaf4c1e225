"""The driver of the executor `ray` without Ray: which worker follows which end."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import ray as driver
from dsmoe_eval.executors.actor import Actor, End
from dsmoe_eval.executors.base import Matrix
from dsmoe_eval.runs import RunOptions

DIED, BUG, STOPPED = "died", "bug", "stopped by the user"


class FakeRay:
    """Nodes of one CPU, and workers that end as they are told, in the order of their start."""

    def __init__(self, ends, nodes=("a", "b"), cpus=1.0):
        self.ends = {model: iter(of_model) for model, of_model in ends.items()}
        self.started, self.selectors, self.killed = [], [], 0
        self._nodes, self._cpus = nodes, cpus
        self.exceptions = SimpleNamespace(RayError=KeyError, RayTaskError=ZeroDivisionError)

    def nodes(self):
        return [
            {"NodeID": name, "Alive": True, "Resources": {"CPU": self._cpus},
             "NodeManagerHostname": name}
            for name in self._nodes
        ]  # fmt: skip

    def cluster_resources(self):
        return {"CPU": self._cpus * len(self._nodes)}

    def remote(self, actor):
        assert actor is Actor
        return SimpleNamespace(options=self._options)

    def _options(self, **options):
        self.selectors.append(options["label_selector"])
        return SimpleNamespace(
            remote=lambda: SimpleNamespace(work=SimpleNamespace(remote=self._work))
        )

    def _work(self, order):
        self.started.append(order.options.model)
        return (order.name, next(self.ends[order.options.model]))

    def wait(self, refs, num_returns=1, timeout=None):  # noqa: ARG002
        if num_returns == 1 and any(ref[1] == STOPPED for ref in refs):
            raise KeyboardInterrupt
        ended = [ref for ref in refs if ref[1] is not None]
        return ended[:num_returns], refs

    def get(self, ref):
        if ref[1] == DIED:
            raise KeyError("the node died")
        if ref[1] == BUG:
            error = ZeroDivisionError()
            error.cause = IndexError("list index out of range")
            raise error
        return ref[1]

    def kill(self, actor, no_restart):  # noqa: ARG002
        self.killed += 1


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run models whose workers end so: `run({model: [End, ...]})`; return failures, and Ray."""

    @contextmanager
    def connected():
        yield "no cluster"

    monkeypatch.setattr(driver, "connected", connected)

    def run_with(ends, **options):
        run_with.ray = fake = FakeRay(ends, **options)
        finished = []
        monkeypatch.setitem(sys.modules, "ray", fake)
        matrix = Matrix("lab", tmp_path / "runs", tuple(ends), RunOptions())
        executor, quiet = driver.RayExecutor(), Console(quiet=True)
        failures = executor.run(matrix, lambda model, _root: finished.append(model), quiet)
        return failures, finished, fake

    return run_with


def test_a_worker_that_died_for_good_is_followed_by_another(run):
    failures, finished, ray = run({"lab-poly": [DIED, DIED, End()]})
    assert (failures, finished) == ({}, ["lab-poly"])
    assert ray.started == ["lab-poly"] * 3


def test_a_model_whose_workers_all_die_fails(run):
    with pytest.raises(UserError, match="a worker is lost \\('the node died'\\)"):
        run({"lab-poly": [DIED] * 4})


def test_a_node_at_fault_is_avoided(run):
    full = End("a: cells: No space left on device", node="a")
    failures, _, ray = run({"lab-poly": [full, End()]})
    assert failures == {}
    assert ray.selectors == [None, {"ray.io/node-id": "!in(a)"}]


def test_where_all_nodes_are_at_fault_the_model_fails(run):
    ends = [End(f"{name}: No space left on device", node=name) for name in "ab"]
    with pytest.raises(UserError, match="b: No space left on device"):
        run({"lab-poly": ends})


def test_what_a_user_must_change_is_not_tried_again(run):
    wrong = End("plan 'lab': there is no such model")
    failures, finished, ray = run({"lab-poly": [wrong], "lab-smol": [End()]})
    assert (failures, finished) == ({"lab-poly": wrong.failure}, ["lab-smol"])
    assert sorted(ray.started) == ["lab-poly", "lab-smol"]


def test_an_error_of_ours_is_not_tried_again(run):
    with pytest.raises(UserError, match="IndexError: list index out of range; see the run's log"):
        run({"lab-poly": [BUG]})


def test_too_small_a_cluster_is_refused(run):
    with pytest.raises(UserError, match="no node of the cluster has 1 CPUs for a worker"):
        run({"lab-poly": []}, cpus=0.0)


def test_ctrl_c_ends_the_workers_and_unlocks_the_folder(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run({"lab-poly": [STOPPED]})
    assert run.ray.killed == 1
    assert not (tmp_path / "runs" / ".lock").exists()

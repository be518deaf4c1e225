"""Ray clusters for tests: each node in namespaces of its own, on a network that only they see.

A node has a host name, an address, its own processes, its own temporary folder and one core of this
machine; files outside the temporary folder are shared by all nodes, as on NFS. Nothing outlives the
process that made a cluster, however that ends: the kernel ends all of a node's processes with its
first one, and that one with its parent.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PORT = 6379
OBJECT_STORE = 80_000_000
"""Bytes; nearly the least that Ray takes."""
START_SECONDS = 90.0
_DIES_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]
_NAMESPACES = ["--fork", "--kill-child", "--pid", "--net", "--uts", "--mount", "--mount-proc"]
# By default Ray takes half a minute to notice that a node is gone.
_QUICK_TO_NOTICE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
# The first process of a node: it also reaps what the others leave.
_INIT = "while :; do sleep 1; done"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster.

    Attributes:
        name: its host name.
        address: its address on the cluster's network.
        init: the process of this machine by whose death all of the node's processes die.
        core: the core of this machine on which they run.
        environment: the variables of its processes.
    """

    name: str
    address: str
    init: int
    core: int
    environment: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        """Return the command by which this machine runs a command on the node."""
        inside = ["nsenter", "--target", str(self.init), "--all", f"--wd={os.getcwd()}"]
        return [*_DIES_WITH_PARENT, *inside, "taskset", "-c", str(self.core), *words]

    def run(
        self, *words: str, seconds: float = START_SECONDS, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node to its end."""
        return subprocess.run(  # noqa: S603 - our own command
            self.command(*words), env=_changed(self.environment, environment),
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def start(self, *words: str, to: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on the node, such as a driver; a file receives what it says."""
        with to.open("ab") as stream:
            return subprocess.Popen(  # noqa: S603
                self.command(*words), env=_changed(self.environment, environment),
                stdout=stream, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def signal(self, process: int, name: str) -> None:
        """Send a signal to a process of the node, by the number that it has there."""
        self.run("kill", f"-{name}", str(process))

    def kill(self) -> None:
        """End all processes of the node at once."""
        os.kill(self.init, 9)


@dataclass
class Cluster:
    """Nodes on one network; the first one is the head.

    Attributes:
        root: the folder of the nodes' temporary folders.
        switch: the process that keeps the network between the nodes.
        environment: variables that the nodes' processes have besides those of this process.
    """

    root: Path
    switch: int
    environment: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def address(self) -> str:
        """The value of RAY_ADDRESS by which a driver on a node finds the cluster."""
        return f"{self.nodes[0].address}:{PORT}"

    def add(self, core: int = 0, cpus: int = 1) -> Node:
        """Start another node, and Ray on it, with so many CPUs for workers."""
        node = self.machine(core)
        done = node.run(*self.ray_start(node, cpus))
        assert done.returncode == 0, done.stdout + done.stderr
        return node

    def ray_start(self, node: Node, cpus: int = 1) -> list[str]:
        """Return the command that starts Ray on a node, which joins the cluster or begins it."""
        where = [f"--address={self.address}"]
        if node is self.nodes[0]:
            where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        limits = [f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE}"]
        mine = [f"--node-ip-address={node.address}", "--disable-usage-stats", *limits]
        return [*RAY, "start", *where, *mine]

    def machine(self, core: int = 0) -> Node:
        """Start a node without Ray, whose processes have one core of this machine."""
        number, cores = next(self._numbers), sorted(os.sched_getaffinity(0))
        name, address = f"node{number}", f"10.0.0.{number + 1}"
        folder = self.root / name
        folder.mkdir()
        init = _begin(f"mount --bind {folder} {self.root / 'tmp'}; hostname {name}")
        link = f"ip link add {name} type veth peer name eth0 netns {init}"
        _inside(self.switch, f"{link} && ip link set {name} master bridge0 up")
        up = f"ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up"
        _inside(init, up)
        self.nodes.append(Node(name, address, init, cores[core % len(cores)], self.environment))
        return self.nodes[-1]


def _changed(environment: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return variables with changes; an empty one is left out."""
    return {name: value for name, value in {**environment, **changes}.items() if value}


def _begin(script: str) -> int:
    """Start a first process in new namespaces; return its number once the script has run."""
    ready = "echo ready"
    words = [
        *_DIES_WITH_PARENT,
        "unshare",
        *_NAMESPACES,
        "sh",
        "-c",
        f"{script} && {ready}; {_INIT}",
    ]
    process = subprocess.Popen(  # noqa: S603
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.kill()
        raise OSError(process.communicate()[1].strip())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def _inside(init: int, script: str) -> None:
    words = ["nsenter", "--target", str(init), "--net", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


@contextmanager
def cluster(nodes: int = 2, **environment: str) -> Iterator[Cluster]:
    """Start a cluster: a head for the driver, and nodes for workers; at the end nothing is left.

    Args:
        nodes: number of nodes for workers, each with another core, as far as there are cores.
        environment: variables of all nodes' processes.
    """
    with _network(**environment) as made:
        made.add(core=0, cpus=0)
        for number in range(nodes):
            made.add(core=number)
        yield made


@contextmanager
def _network(**environment: str) -> Iterator[Cluster]:
    """Start a network without nodes; at the end nothing is left of it, nor of its nodes."""
    root = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets' paths must be short
    temporary = root / "tmp"
    temporary.mkdir()
    made: Cluster | None = None
    try:
        made = Cluster(root, _switch(), _variables(temporary) | environment)
        yield made
    finally:
        for init in [made.switch, *(node.init for node in made.nodes)] if made else []:
            _end(init)
        shutil.rmtree(root)


@contextmanager
def machine() -> Iterator[Node]:
    """Start a machine without Ray, on a network where it is alone."""
    with _network() as made:
        yield made.machine()


def _switch() -> int:
    try:
        return _begin("ip link add bridge0 type bridge && ip link set bridge0 up")
    except OSError as error:
        pytest.skip(f"needs Linux namespaces, which root may make, and iproute2: {error}")


def _variables(temporary: Path) -> dict[str, str]:
    """Return the variables of nodes: this process' but for Ray's, and those of a small cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(temporary),
        **_QUICK_TO_NOTICE,
        "RAY_memory_monitor_refresh_ms": "0",  # what else runs here is no reason to kill a worker
        "TMPDIR": str(temporary),
        "HOME": str(temporary),
        "OMP_NUM_THREADS": "1",
    }


def _end(init: int) -> None:
    """End a node, if it has not ended, and wait until its processes are gone."""
    with suppress(ProcessLookupError):
        os.kill(init, 9)
    wait_for(lambda: not Path(f"/proc/{init}").exists(), f"process {init} has ended")


def wait_for(happened: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Wait until something has happened, and return it.

    Raises:
        AssertionError: it has not within these seconds.
    """
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)
    return found

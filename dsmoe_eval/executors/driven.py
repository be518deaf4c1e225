"""A model's run as its driver on a cluster sees it: its folder, its workers, and their faults."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypedDict

from ..errors import UserError
from ..files import lock_folder, remove_drafts
from ..registry import load_plan
from ..results.folder import RunFolder, check_free
from ..runs.workers import BEAT, WORKING, read_workers
from .actor import Order, write_token
from .base import Matrix
from .schedule import Needs, needs_of, piece_work

_MOST_LOOKS = 20
"""The looks, two beats apart, after which workers of an earlier driver are not waited for."""


class NodeInfo(TypedDict):
    """A node, as Ray describes it."""

    NodeID: str
    Alive: bool
    Resources: Mapping[str, float]
    NodeManagerHostname: str


class DrivenRun:
    """The run of one model, as the driver sees it.

    Attributes:
        lock: what locks the run's folder.
        needs: what each worker needs.
        size: the work of a piece, in one unit for all models.
        ended: whether the run is finished or has failed.
        avoided: the nodes that were at fault.
        faults: the number of workers that died for good, or were on a node at fault.
        fault: the sentence of the last one.
    """

    def __init__(self, matrix: Matrix, model: str) -> None:
        self.model, self.matrix = model, matrix
        self.folder = RunFolder(matrix.folder(model))
        self.lock = ExitStack()
        self.needs, self.size = Needs(0, 1), 1.0
        self.ended = False
        self.avoided: set[str] = set()
        self.faults = self.started = 0
        self.fault: str | None = None
        self._token = secrets.token_hex(4)

    def open(self, gpu_gib: float | None) -> None:
        """Lock the run's folder, and tidy up after the workers of an earlier driver.

        Raises:
            UserError: another process works there, or the model does not fit into the GPUs.
        """
        options = self.matrix.options
        plan = load_plan(self.matrix.plan)[0].of(self.model, options.seed)
        self.needs = needs_of(plan, self.model, gpu_gib, options.device)
        self.size = piece_work(plan, self.model)
        check_free(self.folder.root)
        self.lock.callback(lock_folder(self.folder.root))
        _await_silence(self.folder)
        self._tidy()
        if self.folder.identity.is_file():
            self.folder.check_unfinished()
        write_token(self.folder.root, self._token)

    def close(self) -> None:
        """Make the folder that of a single process, and unlock it."""
        self._tidy()
        self.lock.close()

    def _tidy(self) -> None:
        self.folder.absorb()
        remove_drafts(self.folder.root)

    def order(self) -> Order:
        """Return the order of one more worker."""
        self.started += 1
        return Order(
            f"{self._token}-{self.started}",
            self.matrix.plan,
            self.folder.root,
            self.matrix.options_of(self.model),
            Path.cwd(),
            self._token,
        )

    def open_pieces(self) -> int | None:
        """Return the number of pieces for a further worker; None if not known yet."""
        states = [one for one in read_workers(self.folder) if one.state == WORKING]
        return max((one.open for one in states if one.open is not None), default=None)

    def fits(self, node: NodeInfo) -> bool:
        """Return whether a node is large enough for a worker, and was not at fault."""
        return node["NodeID"] not in self.avoided and covers(node["Resources"], self.needs)


def covers(resources: Mapping[str, float], needs: Needs) -> bool:
    """Return whether there is as much as a worker needs."""
    return needs.cpus <= resources.get("CPU", 0.0) and needs.gpus <= resources.get("GPU", 0.0)


def _await_silence(folder: RunFolder) -> None:
    """Return once the workers of a killed driver write no more; Ray ends them in seconds.

    Raises:
        UserError: they go on.
    """
    seen: dict[str, float] = {}
    for _ in range(_MOST_LOOKS):
        found = _signs_of_life(folder)
        if not found or found == seen:
            return
        seen = found
        time.sleep(2 * BEAT)
    raise UserError(
        f"{folder.root}: workers of another start still write here ({', '.join(seen)}); wait until "
        "Ray has ended them, or stop the cluster"
    )


def _signs_of_life(folder: RunFolder) -> dict[str, float]:
    found = {}
    for state in read_workers(folder):
        with suppress(FileNotFoundError):  # it has just ended
            if state.state == WORKING:
                found[state.name] = folder.worker(state.name).stat().st_mtime
    return found

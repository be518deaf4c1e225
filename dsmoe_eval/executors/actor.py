"""A worker on a Ray cluster: an actor, which Ray starts again where it died.

All workers of a run do the same on the same folder; see `runs.leases` for how they share it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..files import full_disk, write_text
from ..results.folder import RunFolder
from ..runs.leases import RunPart
from ..runs.options import RunOptions
from ..runs.run import run_with
from ..steering import SteeringError


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do.

    Attributes:
        name: the name of the worker.
        plan: the name or path of the plan.
        root: the folder of the run.
        options: the settings beside the plan, with the model.
        working_folder: the folder to which paths may be relative.
        token: what the driver has written into the run's folder.
    """

    name: str
    plan: str
    root: Path
    options: RunOptions
    working_folder: Path
    token: str


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended.

    Attributes:
        failure: the sentence of its failure; None: the run is finished.
        node: Ray's name of a node that is at fault, so that a worker on another may succeed.
        lost: whether the worker died.
    """

    failure: str | None = None
    node: str | None = None
    lost: bool = False


class Actor:
    """A worker: a process on a node that loads a model once, and does what it can claim."""

    def work(self, order: Order) -> End:
        """Run what is missing of a run, beside its other workers, until it is finished."""
        with suppress(OSError):  # what is given by a relative path is then missing, which is said
            os.chdir(order.working_folder)
        try:
            _check_shared(order)
            part = RunPart(order.name)
            run_with(order.plan, order.root, order.options, Console(quiet=True), part)
        except (UserError, SteeringError, OSError) as error:
            if isinstance(error, OSError) or full_disk(error):
                return End(f"{os.uname().nodename}: {error}", _node())
            return End(str(error))
        return End()


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _check_shared(order: Order) -> None:
    path = _token_file(order.root)
    if not (path.is_file() and path.read_text(encoding="utf-8") == order.token):
        raise UserError(
            f"{order.root}: on {os.uname().nodename} this is not the folder that the run was "
            "started in; give --out in a folder that all nodes share"
        )


def write_token(root: Path, token: str) -> None:
    """Write into a run's folder what its workers must find there."""
    write_text(_token_file(root), token)


def _token_file(root: Path) -> Path:
    return RunFolder(root).workers / "token"

"""The runs of a matrix in this process, one after the other, or a shard of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from ..errors import UserError
from ..runs.leases import RunPart, Shard
from ..runs.run import run_with
from .base import Finished, Matrix, show_failure


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs a matrix in this process.

    Attributes:
        shard: the part of each run's cells that this process answers, beside other processes; the
            comparisons are left to a later run. None: all of them.
    """

    shard: Shard | None = None

    def run(self, matrix: Matrix, finished: Finished, console: Console) -> Mapping[str, str]:
        """Run what is missing of every model; one that fails does not stop the others.

        The error of a single model is raised.

        Raises:
            UserError: the only model cannot be run.
            SteeringError: a probe failed.
        """
        failures = {}
        for model in matrix.models:
            try:
                self._run(matrix, model, console)
                finished(model, matrix.folder(model))
            except UserError as error:
                if len(matrix.models) == 1:
                    raise
                failures[model] = str(error)
                show_failure(console, model, failures[model])
        return failures

    def _run(self, matrix: Matrix, model: str, console: Console) -> None:
        part = None if self.shard is None else RunPart(self.shard.worker, shard=self.shard)
        run_with(matrix.plan, matrix.folder(model), matrix.options_of(model), console, part)

"""The runs of a matrix on a Ray cluster: workers are actors, which Ray starts again where one dies.

All workers of a model do the same run on the same folder and share it by leases. This driver starts
them where there is room, one by one, and says what happens. What is finished is in the folders of
the runs: a driver that died is replaced by starting the same command again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from ..errors import UserError, one_line, printable
from ..runs.workers import read_workers
from .actor import Actor, End
from .base import Finished, Matrix, show_failure
from .cluster import connected
from .driven import DrivenRun, NodeInfo, covers
from .schedule import ModelState, Needs, next_worker
from .status import Watch
from .status_table import remarks, shown

RESTARTS = 3
"""The times that Ray starts a worker again where it died; then this driver does, as many times."""
_LOOK = 1.0
"""Seconds between two looks at the cluster."""
_GRACE = 10.0
"""Seconds in which the other workers of a finished model should have ended."""


class RayExecutor:
    """Runs a matrix on a Ray cluster, that of `cluster.connected`."""

    def run(self, matrix: Matrix, finished: Finished, console: Console) -> Mapping[str, str]:
        """Run what is missing of every model; one that fails does not stop the others.

        Raises:
            UserError: there is no cluster, or the only model failed.
        """
        matrix = replace(matrix, root=matrix.root.resolve())
        runs = [DrivenRun(matrix, model) for model in matrix.models]
        driver = _Driver(runs, console)
        with ExitStack() as locks:
            for run in runs:
                locks.callback(run.lock.close)
            with connected() as name:
                console.print(Text(printable(f"on {name}")))
                watch = Watch({run.model: run.folder.root for run in runs})
                with shown(console, watch, driver.failures):
                    driver.drive()
        failures = driver.failures
        for run in runs:
            try:
                if run.model not in failures:
                    finished(run.model, run.folder.root)
            except UserError as error:
                failures[run.model] = str(error)
        if failures and len(runs) == 1:
            raise UserError(failures[runs[0].model])
        for model, sentence in failures.items():
            show_failure(console, model, sentence)
        return failures


class _Driver:
    """The loop that starts workers and sees them end.

    Attributes:
        failures: model -> the sentence of its failure.
    """

    def __init__(self, runs: Sequence[DrivenRun], console: Console) -> None:
        self.failures: dict[str, str] = {}
        self._runs, self._console = runs, console
        # The end of a worker -> its run and its actor.
        self._workers: dict[object, tuple[DrivenRun, object]] = {}

    def drive(self) -> None:
        """Run all that can be run."""
        gib = None if self._runs[0].matrix.options.device == "cpu" else _gpu_gib()
        for run in self._runs:
            try:
                run.open(gib)
            except UserError as error:
                self._fail(run, str(error))
        try:
            while self._look():
                pass
        finally:
            self._stop([*self._workers])

    def _look(self) -> bool:
        """Start workers, and wait a second for the end of one; return False when all is done."""
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._start(nodes)
        if not self._workers:
            for run in self._open():
                missing = f"no node of the cluster has {_words(run.needs)} for a worker"
                self._fail(run, run.fault or missing)
            return False
        for end in ray.wait([*self._workers], timeout=_LOOK)[0]:
            if end in self._workers:  # else it was stopped meanwhile
                self._see(self._workers.pop(end)[0], _outcome(end))
        self._bury(nodes)
        return True

    def _open(self) -> list[DrivenRun]:
        return [run for run in self._runs if not run.ended]

    def _start(self, nodes: Sequence[NodeInfo]) -> None:
        """Start workers as long as there is room in the cluster and work for them."""
        total = {key: sum(n["Resources"].get(key, 0.0) for n in nodes) for key in ("CPU", "GPU")}
        runs = {run.model: run for run in self._open() if any(map(run.fits, nodes))}

        def fits(needs: Needs) -> bool:
            used = [run.needs for run, _ in self._workers.values()]
            cpus = total["CPU"] - sum(one.cpus for one in used)
            return covers({"CPU": cpus, "GPU": total["GPU"] - sum(n.gpus for n in used)}, needs)

        while (model := next_worker([*map(self._state, runs.values())], fits)) is not None:
            self._start_worker(runs[model])

    def _state(self, run: DrivenRun) -> ModelState:
        workers, pieces = len(self._of(run)), run.open_pieces()
        return ModelState(run.model, run.needs, workers, pieces, run.size * (pieces or 1))

    def _start_worker(self, run: DrivenRun) -> None:
        import ray

        avoided = ",".join(sorted(run.avoided))
        actor = ray.remote(Actor).options(
            num_cpus=run.needs.cpus,
            num_gpus=run.needs.gpus,
            max_restarts=RESTARTS,
            max_task_retries=-1,  # as long as it is started again
            label_selector={"ray.io/node-id": f"!in({avoided})"} if avoided else None,
        )
        started = actor.remote()
        self._workers[started.work.remote(run.order())] = run, started

    def _see(self, run: DrivenRun, end: End) -> None:
        """Draw the consequences of a worker's end."""
        if run.ended:
            return
        if end.failure is None:
            self._finish(run)
        elif (end.node or end.lost) and run.faults < RESTARTS:
            run.faults, run.fault = run.faults + 1, end.failure
            run.avoided |= {end.node} if end.node else set()
            self._say(f"{run.model}: another worker takes over ({end.failure})")
        else:
            self._fail(run, end.failure)

    def _finish(self, run: DrivenRun) -> None:
        import ray

        if others := self._of(run):
            ray.wait(others, num_returns=len(others), timeout=_GRACE)
            self._stop(others)
        run.ended = True
        run.close()
        for line in remarks(Watch({run.model: run.folder.root}).look()):
            self._console.print(line, soft_wrap=True)

    def _fail(self, run: DrivenRun, sentence: str) -> None:
        run.ended, self.failures[run.model] = True, sentence
        self._stop(self._of(run))
        run.lock.close()

    def _of(self, run: DrivenRun) -> list[object]:
        return [end for end, (of, _) in self._workers.items() if of is run]

    def _stop(self, ends: Sequence[object]) -> None:
        """Stop workers, and return once they write no more."""
        import ray

        for end in ends:
            ray.kill(self._workers.pop(end)[1], no_restart=True)
        if ends:
            ray.wait([*ends], num_returns=len(ends), timeout=_GRACE)

    def _bury(self, nodes: Sequence[NodeInfo]) -> None:
        """Remove the signs of life of workers whose nodes are gone, so that others take over."""
        alive = {node["NodeManagerHostname"] for node in nodes}
        for run in self._open():
            for worker in read_workers(run.folder):
                if worker.node not in alive:
                    run.folder.worker(worker.name).unlink(missing_ok=True)

    def _say(self, words: str) -> None:
        self._console.print(Text(printable(words)), soft_wrap=True)


def _outcome(end: object) -> End:
    """Return how a worker ended."""
    import ray

    try:
        ended: End = ray.get(end)
        return ended
    except ray.exceptions.RayTaskError as error:  # an error of the program
        return End(f"{type(error.cause).__name__}: {one_line(error.cause)}; see the run's log")
    except ray.exceptions.RayError as error:
        return End(f"a worker is lost ({one_line(error)})", lost=True)


def _gpu_gib() -> float | None:
    """Return the memory of a GPU of the cluster, whose GPUs are alike; None if it has none."""
    import ray

    if not ray.cluster_resources().get("GPU"):
        return None

    def memory() -> float:
        import torch

        return torch.cuda.get_device_properties(0).total_memory / 2**30

    return float(ray.get(ray.remote(num_gpus=1)(memory).remote()))


def _words(needs: Needs) -> str:
    return f"{needs.cpus} CPUs" + (f" and {needs.gpus} GPUs" if needs.gpus else "")

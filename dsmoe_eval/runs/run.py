"""The whole evaluation: plan -> profiles -> cells -> comparisons -> report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engines.generation import FILE
from ..errors import UserError, printable
from ..experts import RoutingCounts
from ..files import LOCK, lock_folder
from ..log import log_file, note
from ..progress import progress_bar
from ..results.folder import RunFolder, check_free
from ..results.outcome_comparisons import compare_run
from ..results.workers import LOCAL
from ..steering import SteeringError
from ..variants import describe_controls
from .agreement import measure_agreement, measure_rounding
from .answering import answer_tests, arm_cells, base_cells
from .arms import PlannedArm, PreparedArm
from .foretelling import check_foretelling, foretell, foretelling_answers
from .influence import texts_read
from .job import Job, prepare
from .learning import learned_arms, learning_steps
from .leases import ALONE, Leases, RunPart, Shard, Shared
from .options import AS_PLANNED, RunOptions
from .profiles import needs_streams, stream_means
from .stability import check_wordings, measure_stability, stability_answers, stability_cells
from .stages import count_experts, make_arms, tuning_answers
from .training import trained_arms, training_steps
from .workers import Worker

_LOGGED = ("model", "fingerprint", "engine", "dtype", "device", "limit", "versions")


def run(
    plan: str,
    out: Path | None = None,
    *,
    limit: int | None = None,
    device: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    data: Sequence[Path] = (),
    console: Console | None = None,
) -> RunFolder:
    """Run a plan, or what is missing of it, and write `comparisons.json` to the folder.

    Args:
        plan: a built-in plan's name or the path of a YAML file.
        out: the run's folder; by default `out/<plan>`.
        limit: this and the next four are those of `RunOptions`: items of each task and split.
        device: a torch device.
        model: replaces the plan's model, or selects one of several.
        seed: replaces the plan's seed.
        data: folders of data sets; if empty, they come from the hub.
        console: the console on which plan and progress are shown; by default stderr.

    Raises:
        UserError: the request cannot be met; the results so far are kept.
        SteeringError: a probe failed, so that later results could not be trusted.
    """
    options = RunOptions(limit=limit, device=device, model=model, seed=seed, data=data)
    return run_with(plan, out, options, console)


def run_with(
    plan: str,
    out: Path | None = None,
    options: RunOptions = AS_PLANNED,
    console: Console | None = None,
    part: RunPart | None = None,
) -> RunFolder:
    """Run a plan as `run` does, with all options in one value.

    Args:
        plan: this and the next are those of `run`.
        out: the run's folder.
        options: the settings beside the plan.
        console: as in `run`.
        part: this process as one of several that share the run; None: it is the only one.
    """
    root = run_root(plan, out)
    worker = Worker(root, LOCAL) if part is None else Worker(root, part.name, part.node)
    leases = ALONE if part is None else Shared(root, worker, part.shard)
    with ExitStack() as opened:
        if part is not None:
            check_free(root)
            if part.shard is not None:
                opened.callback(lock_shard(root, part.shard))
            opened.enter_context(worker.working())
        job = prepared(plan, root, options, console, leases)
        opened.callback(job.close)
        if part is None:
            opened.enter_context(worker.working())
        worker.cells = cell_count(job)
        with logged(job):
            run_job(job, console)
    return RunFolder(root)


def run_root(plan: str, out: Path | None) -> Path:
    """Return the folder of a run: `out`, by default one with the name of the plan."""
    return out or Path("out") / Path(plan).stem


def lock_shard(root: Path, shard: Shard) -> Callable[[], None]:
    """Lock a run's folder for a shard, beside other shards; return the function that unlocks it.

    Raises:
        UserError: another process has the same shard, or the whole run.
    """
    unlock = lock_folder(root, LOCK, shared=True)
    try:
        unlock_shard = lock_folder(root, f"{LOCK}-{shard.index}-of-{shard.of}")
    except UserError:
        unlock()
        raise

    def both() -> None:
        unlock_shard()
        unlock()

    return both


def prepared(
    plan: str,
    out: Path | None = None,
    options: RunOptions = AS_PLANNED,
    console: Console | None = None,
    leases: Leases = ALONE,
) -> Job:
    """Load a run into memory, while the console shows that this takes a moment."""
    with (console or Console(stderr=True)).status("loading model and tasks"):
        return prepare(plan, run_root(plan, out), options, leases)


@contextmanager
def logged(job: Job) -> Iterator[None]:
    """Write the log of what is done with a prepared run to the run's folder.

    Raises:
        UserError: the log cannot be written.
    """
    started = time.perf_counter()
    with log_file(job.folder.log, told=(SteeringError,)):
        note(
            "run begins",
            plan=job.plan.name,
            suite=job.suite.name,
            targets=job.targets,
            variants=[variant.name for variant in job.variants],
            seed=job.plan.seed,
            threads=torch.get_num_threads(),
            cells=cell_count(job),
            **{key: job.identity[key] for key in _LOGGED},
        )
        yield
        note("run ends", seconds=round(time.perf_counter() - started, 3))


def run_job(job: Job, console: Console | None = None) -> None:
    """Run what is missing of a prepared run."""
    console, started = console or Console(stderr=True), time.perf_counter()
    console.print(plan_table(job))
    check_wordings(job)
    check_foretelling(job)
    counts, arms = _arms(job, console)
    foretell(job, counts, arms, console)
    with progress_bar(console, "answer test items", _test_answers(job), "answers") as steps:
        answer_tests(job, arms, steps)
    if job.leases.shard is None:
        _compare(job, arms)
    measure_stability(job, counts, arms, console)
    spent, shard = time.perf_counter() - started, job.leases.shard
    done = "answered and compared" if shard is None else f"shard {shard} answered"
    console.print(Text(printable(f"{done} in {spent:.0f} s: {job.folder.root}")))


def cell_count(job: Job) -> int:
    """Return the number of cells of a run, those of the stage `stability` included."""
    arms = sum(len(arm.tasks) for arm in job.arms)
    return len(job.base_tasks) + arms + stability_cells(job).total()


def plan_table(job: Job) -> Table:
    """Describe the run that is about to start, as a table for people."""
    table = Table(title=Text(f"plan {job.plan.name}"), show_header=False, title_justify="left")
    identity, parameters = job.engine.identity, job.identity["parameters"]
    size = "" if parameters is None else f"{parameters / 1e6:,.1f} M parameters, "
    asked = [job.base_tasks, *(arm.tasks for arm in job.arms)]
    settings = sum(len(arm.grid) for arm in job.arms)
    rows: dict[str, str | Text] = {
        "model": f"{identity.name} ({size}{job.engine.dtype})",
        identity.sites.noun: f"{identity.experts} in each of {len(identity.layers)} layers",
        "engine": _engine(job),
        "decoding": _decoding(job),
        "suite": f"{job.suite.name}: {len(job.suite.tasks)} tasks",
        "targets": ", ".join(job.targets),
        "variants": ", ".join(one.name for one in job.variants if one.control_of is None),
        "controls": describe_controls(job.variants),
        "primary outcome": job.plan.outcome,
        "leakage": _leakage(job),
        "tuning": f"{settings} settings on the tuning split",
        "foretold": f"from {foretelling_answers(job):,} answers on the identification split",
        "test": f"{sum(map(len, asked))} cells, {_test_answers(job):,} answers",
        "stability": f"{stability_cells(job).total():,} cells, {stability_answers(job):,} answers",
        "folder": str(job.folder.root),
    }
    for name, asked_for in (("stability", job.plan.stability), ("foretold", job.plan.foretell)):
        if not asked_for:
            del rows[name]
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)) if isinstance(value, str) else value)
    return table


def _test_answers(job: Job) -> int:
    asked = [job.base_tasks, *(arm.tasks for arm in job.arms)]
    return sum(job.test[name].answers_asked for names in asked for name in names)


def _engine(job: Job) -> str:
    engine = job.engine
    settings = ", ".join(f"{name}: {value}" for name, value in engine.settings.items())
    said = f"{engine.name} on {engine.device}" + (f" ({settings})" if settings else "")
    return f"{said}; learner: {job.plan.learner}" if job.roles.are_two else said


def _decoding(job: Job) -> str:
    """Describe which decoding settings apply, and which of the model are ignored."""
    said = job.engine.generation
    if not said.decoding:
        return "as the tasks say"
    if job.plan.decoding == "model":
        return f"as the tasks say, and where they do not, by {FILE}: {said}"
    return f"as the tasks say; ignored in {FILE}: {said} (decoding: model uses it)"


def _leakage(job: Job) -> Text:
    found = job.leakage
    words = f"{found.allowed_by}: {found}" if found.overlaps else str(found)
    return Text(words, style="bold red" if found.overlaps else "")


def _compare(job: Job, arms: list[PreparedArm]) -> None:
    """Write `comparisons.json`; of several workers only the first."""
    folder = job.folder
    with job.leases.turn("comparisons"):
        if job.leases.writer is None or not folder.has(folder.comparisons):
            base, answered = base_cells(job), arm_cells(job, arms)
            parts = (job.plan, job.suite, base, answered, job.identity, job.leakage)
            folder.write_json(
                folder.comparisons, compare_run(folder, *parts).model_dump(mode="json")
            )


def _arms(job: Job, console: Console) -> tuple[RoutingCounts, list[PreparedArm]]:
    """Make the arms: first all that is learned, then tuning, so that each engine starts once."""
    tasks = job.identification.tasks
    texts, read = texts_read(tasks, False), texts_read(tasks, job.reads_influence)
    with progress_bar(console, "identify experts", read, "texts") as steps:
        with job.leases.turn("identification"):
            counts = count_experts(job, steps)
        steps.skip(steps.total - steps.done)  # all of them, where the counts were kept
    means = None
    if needs_streams(job):
        with progress_bar(console, "average the residual stream", texts, "texts") as steps:
            with job.leases.turn("streams"):
                means = stream_means(job, steps)
            steps.skip(steps.total - steps.done)
    trained: dict[PlannedArm, PreparedArm] = {}
    if training := training_steps(job):
        with progress_bar(console, "fine-tune", training) as steps:
            trained = trained_arms(job, counts, steps)
    if learning := learning_steps(job):
        with progress_bar(console, "learn profiles", learning, "steps") as steps:
            trained |= learned_arms(job, counts, steps)
    measure_agreement(job)
    measure_rounding(job)
    with progress_bar(console, "tune arms", tuning_answers(job), "answers") as steps:
        return counts, make_arms(job, counts, trained, steps, means)

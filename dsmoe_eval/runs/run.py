"""The whole evaluation: plan -> profiles -> cells -> comparisons -> report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import write_json
from ..progress import progress_bar
from ..results.comparisons import compare_arms
from ..results.folder import RunFolder
from .job import Job, prepare
from .stages import Arm, answer_arm, answer_base, count_experts, fine_tune, make_arms


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
    """Run a plan, or what is missing of it, and leave `comparisons.json` in the folder.

    Args:
        plan: a built-in plan's name or the path of a YAML file.
        out: the run's folder; by default `out/<plan>`.
        limit: at most so many items of each task and split; for trying things out.
        device: a torch device.
        model: instead of the plan's, or which one where it has several.
        seed: instead of the plan's.
        data: folders that hold the data sets; none: they come from the hub.
        console: where the plan and the progress are shown.

    Raises:
        UserError: the request cannot be met; what was done so far is kept.
        SteeringError: a probe failed, so nothing that follows could be believed.
    """
    job = prepared(plan, out, limit, device, console, model, seed, data)
    try:
        return run_job(job, console).folder
    finally:
        job.serving.close()


def prepared(
    plan: str,
    out: Path | None = None,
    limit: int | None = None,
    device: str | None = None,
    console: Console | None = None,
    model: str | None = None,
    seed: int | None = None,
    data: Sequence[Path] = (),
) -> Job:
    """The run in memory, once the user has been told that this takes a moment."""
    with (console or Console(stderr=True)).status("loading model and tasks"):
        folder = out or Path("out") / Path(plan).stem
        return prepare(plan, folder, limit, device, model, seed, data)


def run_job(job: Job, console: Console | None = None) -> Job:
    """Do what is missing of a prepared run."""
    console, started = console or Console(stderr=True), time.perf_counter()
    console.print(plan_table(job))
    arms = _arms(job, console)
    compare_cells(job, arms, console)
    spent = time.perf_counter() - started
    console.print(f"answered and compared in {spent:.0f} s: {job.folder.root}")
    return job


def plan_table(job: Job) -> Table:
    """What is about to be run, for people."""
    table = Table(title=f"plan {job.plan.name}", show_header=False, title_justify="left")
    asked = [job.base_tasks(), *(job.arm_tasks(target) for _, target in job.arms)]
    answers = sum(job.test[name].answers_asked for names in asked for name in names)
    tuned = [variant for variant, _ in job.arms if variant.is_tuned]
    identity, parameters = job.serving.identity, job.identity["parameters"]
    size = "" if parameters is None else f"{parameters / 1e6:,.1f} M parameters, "
    table.add_row("model", f"{identity.name} ({size}{job.serving.dtype})")
    table.add_row("experts", f"{identity.experts} in each of {len(identity.layers)} layers")
    table.add_row("engine", _engine(job))
    table.add_row("suite", f"{job.suite.name}: {len(job.suite.tasks)} tasks")
    table.add_row("targets", ", ".join(job.targets))
    table.add_row("variants", ", ".join(variant.name for variant in job.variants))
    table.add_row("leakage", _leakage(job))
    table.add_row("tuning", f"{sum(len(job.grid(v)) for v in tuned)} settings on the tuning split")
    table.add_row("test", f"{sum(map(len, asked))} cells, {answers:,} answers")
    table.add_row("folder", str(job.folder.root))
    return table


def _engine(job: Job) -> str:
    serving = job.serving
    settings = ", ".join(f"{name}: {value}" for name, value in serving.settings.items())
    return f"{serving.name} on {serving.device}" + (f" ({settings})" if settings else "")


def _leakage(job: Job) -> Text:
    found = job.leakage
    words = f"{found.allowed_by}: {found}" if found.overlaps else str(found)
    return Text(words, style="bold red" if found.overlaps else "")


def compare_cells(job: Job, arms: list[Arm], console: Console) -> None:
    """Answer every cell that is missing and write `comparisons.json`."""
    total = len(job.base_tasks()) + sum(len(job.arm_tasks(arm.target)) for arm in arms)
    with progress_bar(console, "answer test items", total) as advance:
        base = answer_base(job, advance)
        answered = [answer_arm(job, arm, advance) for arm in arms]
    result = compare_arms(job.folder, job.plan, job.suite, base, answered, job.identity)
    write_json(job.folder.comparisons, result | {"leakage": job.leakage.to_dict()})


def _arms(job: Job, console: Console) -> list[Arm]:
    texts = sum(len(task.items) for task in job.identification.values())
    with progress_bar(console, "identify experts", texts) as advance:
        counts = count_experts(job, advance)
    settings = sum(len(job.grid(variant)) for variant, _ in job.arms if variant.is_tuned)
    with progress_bar(console, "tune arms", settings) as advance:
        arms = make_arms(job, counts, advance)
    return _fine_tuned(job, arms, console)


def _fine_tuned(job: Job, arms: list[Arm], console: Console) -> list[Arm]:
    if job.plan.sft is None or all(arm.variant.kind != "sft" for arm in arms):
        return arms
    from ..variants.sft import step_count

    items = {t: len(job.tuning[job.suite.target_task(t).name].items) for t in job.targets}
    total = sum(step_count(items[a.target], job.plan.sft) for a in arms if a.variant.kind == "sft")
    with progress_bar(console, "fine-tune", total) as advance:
        return [fine_tune(job, a, advance) if a.variant.kind == "sft" else a for a in arms]

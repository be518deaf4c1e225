"""The estimated cost of a plan, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..runs.estimate import DISCORDANCE, CostEstimate, TaskEstimate


def estimate_tables(found: CostEstimate) -> Group:
    """Return tables of the tasks, their sum and the models, and notes on the figures."""
    return Group(_tasks(found), _sums(found), _models(found), *_notes(found))


def _tasks(found: CostEstimate) -> Table:
    table = Table(title=f"plan {found.plan}: tasks of suite {found.suite}", title_justify="left")
    table.add_column("task")
    table.add_column("role")
    for name in ("test", "tuning", "identify", "prompt", "answer <="):
        table.add_column(name, justify="right")
    for share in DISCORDANCE:
        table.add_column(f"shows at {share:.0%}", justify="right")
    for task in found.tasks:
        table.add_row(*_task_row(task))
    return table


def _task_row(task: TaskEstimate) -> Iterator[str]:
    yield task.task
    yield ", ".join(role for role in task.roles if role != "identification") or "identification"
    samples = "" if task.samples == 1 else f" x {task.samples}"
    yield f"{task.test:,}{samples}" + ("" if task.from_data else " *")
    yield f"{task.tuning:,}" if task.tuning else "-"
    yield f"{task.identification:,}" if task.identification else "-"
    yield "?" if task.prompt_tokens is None else f"{task.prompt_tokens:,}"
    yield "?" if task.answer_tokens is None else f"{task.answer_tokens:,}"
    for effect in task.smallest:
        yield "nothing" if effect is None else f"{100 * effect:.1f} pp"


def _sums(found: CostEstimate) -> Table:
    table = Table(title="for each model", show_header=False, title_justify="left")
    table.add_row("engine", found.engine)
    if found.devices > 1:
        table.add_row("devices", f"{found.devices}, each with 1 / {found.devices} of the weights")
    table.add_row("variants", ", ".join(found.variants))
    table.add_row("targets", ", ".join(found.targets))
    table.add_row("test", f"{found.cells:,} cells, {found.answers:,} answers")
    table.add_row("tuning", f"{found.tuning_answers:,} answers")
    least = "" if found.complete else " of the tasks whose prompts are known"
    table.add_row("tokens", f"{found.tokens / 1e6:,.1f} M{least}, every answer at its longest")
    return table


def _models(found: CostEstimate) -> Table:
    table = Table(title="models", title_justify="left")
    table.add_column("model")
    for name in ("tokens, M", "weights, GiB", "PFLOP", "H100 hours, at least"):
        table.add_column(name, justify="right")
    for model in found.models:
        # No tokens: no prompt could be read.
        figures = (model.tokens / 1e6, model.weights_gib, model.petaflop, model.hours)
        table.add_row(printable(model.model), *(f"{f:,.1f}" if f else "?" for f in figures))
    return table


def _notes(found: CostEstimate) -> Iterator[Text]:
    yield Text(
        "shows at 10 % (30 %): the smallest change that the task's test items can show with 80 % "
        "power, where variants differ on that share of items, at the strictest level of Holm's "
        f"procedure over {found.claims} claims; nothing: no change is large enough; items answered "
        "several times show somewhat less than that"
    )
    yield Text(
        "tokens: characters / 4; hours: 2 operations a weight and token at the peak rate, memory, "
        "fine-tuning and generation's slowness left out: real runs take many times as long"
    )
    for task in found.tasks:
        if "target" not in task.roles and 0 < task.test < 100:
            times = "once" if task.samples == 1 else f"{task.samples} times"
            yield Text(
                f"{task.task}: {task.test} items answered {times} are an anecdote, not a "
                "measurement; only pooled with other non-targets do they count",
                style="yellow",
            )
    for note in dict.fromkeys(task.note for task in found.tasks if task.note):
        yield Text(f"* by the suite's own figures: {note}", style="yellow")

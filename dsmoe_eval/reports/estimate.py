"""The estimated cost of a plan, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..runs.estimate import (
    DISCORDANCE,
    CostEstimate,
    ModelEstimate,
    TaskEstimate,
)
from ..variants import describe_controls, get_variant

GENERATED_A_SECOND = 500
"""The tokens that transformers generates per second on one H200: 502 were measured for a model of
7B parameters with 64 answers at once (lm-eval's `hf`), 225 for one of 30B."""


def estimate_tables(found: CostEstimate) -> Group:
    """Return tables of the tasks, their sum and the models, and notes on the figures."""
    return Group(_tasks(found), _sums(found), _models(found), *_notes(found))


def _tasks(found: CostEstimate) -> Table:
    title = f"plan {found.plan}: tasks of suite {found.suite}"
    shows = (f"pp at\n{share:.0%}" for share in DISCORDANCE)
    # A long name is folded, so that all can be told apart at 80 columns.
    return plain_table(
        title, ("task", "role"), ("test", "tuning", "identify", "prompt", "answer", *shows),
        map(_task_row, found.tasks),
    )  # fmt: skip


def plain_table(
    title: str, names: Sequence[str], figures: Sequence[str], rows: Iterable[Iterable[str]]
) -> Table:
    """Return a table for a terminal: columns of names, and columns of figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column(names[0], overflow="fold")
    for name in names[1:]:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _task_row(task: TaskEstimate) -> Iterator[str]:
    yield task.task
    yield ", ".join(role for role in task.roles if role != "identification") or "identification"
    samples = "" if task.samples == 1 else f" x {task.samples}"
    yield f"{task.test:,}{samples}" + ("" if task.from_data else " *") if task.test else "-"
    yield f"{task.tuning:,}" if task.tuning else "-"
    yield f"{task.identification:,}" if task.identification else "-"
    yield "?" if task.prompt_tokens is None else f"{task.prompt_tokens:,}"
    yield "?" if task.answer_tokens is None else f"{task.answer_tokens:,}"
    for effect in task.smallest:
        lacking = "-" if "text" in task.roles else "none"
        yield lacking if effect is None else f"{100 * effect:.1f}"


def _sums(found: CostEstimate) -> Table:
    table = Table(title="for each model", show_header=False, title_justify="left")
    one = found.engine == found.learner == "transformers"
    table.add_row("engine", found.engine if one else f"{found.engine}; learner: {found.learner}")
    if found.devices > 1:
        table.add_row("devices", f"{found.devices}, each with 1 / {found.devices} of the weights")
    variants = [get_variant(name) for name in found.variants]
    table.add_row("variants", ", ".join(one.name for one in variants if one.control_of is None))
    table.add_row("controls", describe_controls(variants))
    table.add_row("targets", ", ".join(found.targets))
    if found.identification_texts:
        tokens = f"{found.identification_tokens / 1e3:,.1f} k tokens"
        table.add_row("identification", f"{found.identification_texts:,} texts, {tokens} per pass")
    if found.influence_items:
        tokens = f"{found.influence_tokens / 1e3:,.1f} k tokens"
        items = f"{found.influence_items:,} items with their answers, {tokens}"
        table.add_row("influence", f"{items}: a forward and backward pass of each option")
    table.add_row("test", f"{found.cells:,} cells, {found.answers:,} answers")
    tokens = (
        f"{found.control_tokens / 1e6:,.1f} M" if found.control_tokens else "an unknown number of"
    )
    table.add_row("of controls", f"{found.control_cells:,} of these cells, {tokens} tokens")
    if found.stability_cells:
        again = f"{found.stability_cells:,} cells, {found.stability_answers:,} answers"
        table.add_row("stability", f"{again}, after the test")
    table.add_row("tuning", f"{found.tuning_answers:,} answers")
    if found.foretelling_answers:
        table.add_row("foretold", f"from {found.foretelling_answers:,} answers before the test")
    least = "" if found.complete else " of the tasks whose prompts are known"
    table.add_row("tokens", f"{found.tokens / 1e6:,.1f} M{least}, every answer at its longest")
    return table


def _models(found: CostEstimate) -> Table:
    figures = ("tokens, M", "weights, GiB", "PFLOP", "H100 hours, at least")
    return plain_table("models", ("model",), figures, map(_model_row, found.models))


def _model_row(model: ModelEstimate) -> Iterator[str]:
    yield printable(model.model)
    for figure in (model.tokens / 1e6, model.weights_gib, model.petaflop):
        yield _figure(figure)
    short = model.hours and model.hours < 1 / 60
    yield "under a minute" if short else _figure(model.hours)


def _figure(figure: float | None) -> str:
    # No tokens: no prompt could be read.
    return "?" if not figure else f"{figure:,.1f}" if figure >= 0.1 else f"{figure:.1g}"


def _notes(found: CostEstimate) -> Iterator[Text]:
    yield Text(
        "pp at 10 % (30 %): the smallest change that the task's test items can show with 80 % "
        "power, where variants differ on that share of items, at the strictest level of Holm's "
        f"procedure over {found.claims} claims; none: no change is large enough; items answered "
        "several times show somewhat less than that; answer: its largest number of tokens"
    )
    yield Text(
        "tokens: characters / 4; hours: 2 operations a weight and token at the peak rate, memory, "
        "fine-tuning and generation's slowness left out: real runs take many times as long"
    )
    if found.engine == "transformers":
        for model in found.models:
            if model.generated > 3600 * GENERATED_A_SECOND:
                yield Text(_slow(model), style="yellow")
    if few := [_few(task) for task in found.tasks if _is_few(task)]:
        yield Text(
            f"fewer than 100 items are an anecdote, not a measurement; only pooled with other "
            f"non-targets do they count: {', '.join(few)}",
            style="yellow",
        )
    for note in dict.fromkeys(task.note for task in found.tasks if task.note):
        yield Text(f"* by the suite's own figures: {note}", style="yellow")


def _slow(model: ModelEstimate) -> str:
    hours = model.generated / GENERATED_A_SECOND / 3600
    return (
        f"{printable(model.model)}: up to {model.generated / 1e6:,.1f} M tokens are generated, "
        f"{hours:,.0f} hours in transformers at {GENERATED_A_SECOND} tokens per "
        "second (a 7B model on one H200, larger models less); engine: vllm is faster"
    )


def _is_few(task: TaskEstimate) -> bool:
    return "non-target" in task.roles and "target" not in task.roles and 0 < task.test < 100


def _few(task: TaskEstimate) -> str:
    times = f" answered {task.samples} times" if task.samples > 1 else ""
    return f"{task.task} ({task.test}{times})"

"""The influence of experts on the outcomes of a suite's items, or on text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cards import Identification
from ..engines.base import Engine, pass_identity
from ..experts import (
    Form,
    InfluenceItems,
    Method,
    OutcomeItem,
    RoutingCounts,
    layer_steps,
    measure_influence,
    resample_documents,
    stepped_form,
)
from ..experts.influence_items import domain_tables
from ..progress import counted_as
from ..tasks.identification import read_tasks
from ..tasks.items import WithItems
from .outcome_items import TaskItems, items_by_task, own_answers

_ITEMS = 1
"""Keeps the draws of items apart from those of documents, which have 0."""
READ = "identification"
"""The role of tasks that must not change: each domain has one."""


def with_influence(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    settings: Identification,
    advance: Callable[[int], object] = lambda _: None,
) -> RoutingCounts:
    """Return the counts with the influence of experts on each domain's items, in its exact form.

    The items that are to gain are those of the domain's target, if its identification split is
    among the tasks, else all of the domain. Those that must not change are its identification text.

    Args:
        engine: the model's engine, which must compute gradients.
        tasks: the tasks by name.
        counts: the counts of their text, with the spread of logits.
        root: the folder in which the pass is stored.
        settings: the presentation of the text, and whose answers count.
        advance: called with the number of items done, for a progress bar.

    Raises:
        UserError: the engine computes no gradients, or an item has no outcome.
        ValueError: likewise, or the counts lack the spread.
        SteeringError: the model's routers or experts do not allow it.
    """
    tables = influence_tables(engine, tasks, counts, root, settings, advance)
    return replace(counts, influence=tables(None))


def resampled_counts(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    numbers: Iterable[int],
    seed: int,
    settings: Identification,
) -> list[RoutingCounts]:
    """Resample the documents, and where counts have influence, the items of each domain too.

    Items of a cluster are drawn together. The pass of `with_influence` is read from `root`.

    Args:
        engine: the model's engine, as for `with_influence`; not used without influence.
        tasks: the tasks by name.
        counts: the counts of their text.
        root: the folder in which the pass is stored.
        numbers: the numbers of the resamples; see `resample_documents`.
        seed: the seed of all resamples.
        settings: the presentation of the text, as for `with_influence`.
    """
    documents = replace(counts, influence=None)
    drawn = [(number, resample_documents(documents, number, seed)) for number in numbers]
    if counts.influence is None:
        return [one for _, one in drawn]
    tables = influence_tables(engine, tasks, counts, root, settings)
    return [
        replace(one, influence=tables(np.random.default_rng([seed, _ITEMS, number])))
        for number, one in drawn
    ]


InfluenceTables = Callable[[np.random.Generator | None], NDArray[np.float64]]
"""A function: a source of draws, or None for all items -> what `domain_tables` gives."""


def influence_tables(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    settings: Identification,
    advance: Callable[[int], object] = lambda _: None,
) -> InfluenceTables:
    """Compute the influence on the items of tasks, or read its pass, to be averaged many times.

    Each call with a source of draws resamples the items, those of a cluster together. See
    `with_influence` for the arguments and errors.
    """
    sites = engine.identity.sites
    steps = layer_steps(counts, sites)
    answers = own_answers(engine, root) if settings.phase == "generated" else None
    read = items_by_task(engine, tasks, settings.chat_template, answers)
    with counted_as(advance, len(read.items), read.texts) as count:
        seen = influence_of(engine, read.items, stepped_form(steps, sites), root, count)

    def of(chosen: Mapping[str, WithItems]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {domain: [] for domain in counts.domains}
        for name, task in chosen.items():
            found.get(task.card.domain, []).extend(read.rows[name])
        return found

    def tables(draw: np.random.Generator | None) -> NDArray[np.float64]:
        gains, kept = of(gaining(tasks)), of(_with_role(tasks, READ))
        if draw is not None:
            gains, kept = (
                {name: _drawn(read.items, rows, draw) for name, rows in part.items()}
                for part in (gains, kept)
            )
        return domain_tables(seen, gains, kept, steps)

    return tables


def _drawn(
    items: Sequence[OutcomeItem], rows: Sequence[int], draw: np.random.Generator
) -> list[int]:
    """Return rows of items, drawn by cluster with replacement; as many clusters as there are."""
    members: dict[object, list[int]] = {}
    for row in rows:
        members.setdefault(items[row].cluster or row, []).append(row)
    groups = [*members.values()]
    return [row for at in draw.integers(len(groups), size=len(groups)) for row in groups[at]]


def texts_read(tasks: Mapping[str, WithItems], influence: bool) -> int:
    """Count what a pass over identification text reads: its texts, and for influence all items."""
    items = sum(len(task.items) for task in tasks.values()) if influence else 0
    return sum(len(task.items) for task in read_tasks(tasks)) + items


def task_influence(
    engine: Engine, read: TaskItems, form: Form, root: Path, advance: Callable[[int], None]
) -> dict[str, NDArray[np.float64]]:
    """Compute the mean influence on the items of each task: name -> [layers, experts], per unit.

    With the items, the steps and the folder of `with_influence`, its pass is only read again.

    Raises:
        UserError: the engine computes no gradients.
        SteeringError: the model's routers or experts do not allow it.
    """
    seen = influence_of(engine, read.items, form, root, advance)
    return {name: seen.mean(rows).mean for name, rows in read.rows.items()}


def answers_read(tasks: Mapping[str, WithItems], method: Method, domain: str) -> int:
    """Count the items whose right answers a method reads to score experts for a domain."""
    if not method.reads_answers:
        return 0
    own = [task for task in gaining(tasks).values() if task.card.domain == domain]
    others = [one for one in _with_role(tasks, READ).values() if one.card.domain != domain]
    return sum(len(task.items) for task in own + (others if method.net else []))


def gaining(tasks: Mapping[str, WithItems]) -> dict[str, WithItems]:
    """Return the tasks that are to gain: each domain's target, or all its tasks without one."""
    targets = _with_role(tasks, "target")
    domains = {task.card.domain for task in targets.values()}
    return {
        name: task
        for name, task in tasks.items()
        if name in targets or task.card.domain not in domains
    }


def _with_role(tasks: Mapping[str, WithItems], role: str) -> dict[str, WithItems]:
    return {name: task for name, task in tasks.items() if role in task.card.roles}


def influence_of(
    engine: Engine,
    items: Sequence[OutcomeItem],
    form: Form,
    root: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> InfluenceItems:
    """Compute the influence of every expert on items; see `measure_influence`.

    Raises:
        UserError: the engine computes no gradients.
        SteeringError: the model's routers or experts do not allow it.
    """
    reader = engine.reader()
    return measure_influence(
        reader.model,
        items,
        root,
        form=form,
        identity=pass_identity(engine, reader),
        sites=engine.identity.sites,
        advance=advance,
    )

"""The influence of experts on the outcomes of a suite's items, or on text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cards import Identification
from ..engines.base import Engine, pass_identity
from ..engines.lm import EngineLM
from ..errors import UserError
from ..experts import (
    Form,
    InfluenceItems,
    Method,
    OutcomeItem,
    RoutingCounts,
    ScoredText,
    measure_influence,
    resample_documents,
)
from ..experts.influence import UNIT
from ..experts.influence_items import domain_tables
from ..models.prompt_format import PromptFormat
from ..progress import counted_as
from ..tasks.identification import TextTask, read_tasks
from ..tasks.items import Item, WithItems
from ..tasks.loading import LoadedTask, in_format
from ..tasks.scoring import answer_tasks, judge

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
    return replace(counts, influence=_pass(engine, tasks, counts, root, settings, advance)(None))


def own_answers(engine: Engine, root: Path) -> Path:
    """Return the file, beside passes of any model, of the answers that this one generated."""
    facts = pass_identity(engine, None).encode()
    return root / f"generated-{hashlib.sha256(facts).hexdigest()[:16]}.jsonl"


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
    tables = _pass(engine, tasks, counts, root, settings, lambda _: None)
    return [
        replace(one, influence=tables(np.random.default_rng([seed, _ITEMS, number])))
        for number, one in drawn
    ]


Tables = Callable[[np.random.Generator | None], NDArray[np.float64]]
"""A function: a source of draws, or None for all items -> what `domain_tables` gives."""


def _pass(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    settings: Identification,
    advance: Callable[[int], object],
) -> Tables:
    steps = tuple(UNIT * counts.sigmas()[layer] for layer in counts.layers)
    answers = own_answers(engine, root) if settings.phase == "generated" else None
    lists = {
        name: outcome_items(engine, {name: task}, settings.chat_template, answers)
        for name, task in tasks.items()
    }
    rows, start = dict[str, range](), 0
    for name, items in lists.items():
        rows[name] = range(start, start := start + len(items))
    every = [one for items in lists.values() for one in items]
    with counted_as(advance, len(every), sum(len(one.texts) for one in every)) as count:
        seen = influence_of(engine, every, Form(steps=steps), root, count)

    def of(chosen: Mapping[str, WithItems]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {domain: [] for domain in counts.domains}
        for name, task in chosen.items():
            found[task.card.domain] += rows[name]
        return found

    def tables(draw: np.random.Generator | None) -> NDArray[np.float64]:
        gains, kept = of(gaining(tasks)), of(_with_role(tasks, READ))
        if draw is not None:
            gains, kept = (
                {name: _drawn(every, rows, draw) for name, rows in part.items()}
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
    engine: Engine,
    tasks: Mapping[str, WithItems],
    form: Form,
    root: Path,
    chat: bool = False,
    advance: Callable[[int], None] = lambda _: None,
    generated: Path | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute the mean influence on the items of each task: name -> [layers, experts], per unit.

    With the tasks, the steps, the folder and the answers of `with_influence`, its pass is only read
    again. See `outcome_items` for `chat` and `generated`.

    Raises:
        UserError: the engine computes no gradients, or an item has no outcome.
        SteeringError: the model's routers or experts do not allow it.
    """
    lists = {n: outcome_items(engine, {n: one}, chat, generated) for n, one in tasks.items()}
    every = [one for items in lists.values() for one in items]
    seen, start, found = influence_of(engine, every, form, root, advance), 0, {}
    for name, items in lists.items():
        rows = range(start, start := start + len(items))
        found[name] = seen.mean(rows).mean
    return found


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
        advance=advance,
    )


def outcome_items(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    chat: bool = False,
    generated: Path | None = None,
) -> tuple[OutcomeItem, ...]:
    """Encode the items of tasks with their outcomes, in order.

    - Options that are scored: the log-probability of the right one (`gold_logprob`).
    - Generated answers: the log-likelihood of the right answer; or of that of the model,
      where that is right, with `generated`. Other items are then left out.
    - Text, such as chunks of documents: its mean log-likelihood per token.

    Args:
        engine: the model's engine.
        tasks: the tasks by name.
        chat: whether questions, not texts, are put into the tokenizer's chat template.
        generated: the file of the model's answers, which are read from it or added; None: its
            answers are not generated.

    Raises:
        UserError: the tokenizer has no chat template, or gives no token for an answer; a text has
            fewer than two tokens; the right answer is none of an item's options; or the model
            answers no item of a task correctly.
    """
    lm = engine.language_model(PromptFormat(chat=chat))
    return tuple(one for task in tasks.values() for one in _items(lm, task, generated))


def _items(lm: EngineLM, task: WithItems, generated: Path | None) -> list[OutcomeItem]:
    domain = task.card.domain
    if isinstance(task, TextTask) or task.card.is_text:
        return [_text(lm, domain, item) for item in task.items]
    assert isinstance(task, LoadedTask)  # noqa: S101 - the two kinds of tasks
    if task.task.OUTPUT_TYPE != "multiple_choice":
        if generated is not None:
            return _generated(lm, in_format(task, lm), generated)
        pairs = lm.encoded(in_format(task, lm).answers(lm))
        return [
            OutcomeItem(domain, (_scored(*pair),), cluster=item.cluster)
            for item, pair in zip(task.items, pairs, strict=True)
        ]
    requests = in_format(task, lm).requests
    pairs = lm.encoded([(str(one.args[0]), str(one.args[1])) for one in requests])
    options: dict[int, list[ScoredText]] = {}
    for one, pair in zip(requests, pairs, strict=True):
        options.setdefault(one.doc_id, []).append(_scored(*pair))
    return [
        _question(task, item, texts)
        for item, texts in zip(task.items, options.values(), strict=True)
    ]


def _generated(lm: EngineLM, task: LoadedTask, path: Path) -> list[OutcomeItem]:
    """Return the items with the first right answer that the model generates, if there is one."""
    (answers,) = answer_tasks(lm, [task], path)
    right = [
        next((one.text for one in samples if one.score and one.text), None)
        for samples in judge(task, answers)
    ]
    found = [
        (item, str(request.args[0]), text)
        for item, request, text in zip(task.items, task.requests, right, strict=True)
        if text is not None
    ]
    if not found:
        raise UserError(
            f"task {task.card.name!r}: the model answers none of its {len(task.items)} items "
            "correctly, so that none of its answers counts; take the right ones (phase prompt)"
        )
    pairs = lm.encoded([(prompt, text) for _, prompt, text in found])
    return [
        OutcomeItem(task.card.domain, (_scored(*pair),), cluster=item.cluster)
        for (item, _, _), pair in zip(found, pairs, strict=True)
    ]


def _question(task: LoadedTask, item: Item, texts: Sequence[ScoredText]) -> OutcomeItem:
    if not item.rights:
        raise UserError(
            f"item {item.id}: its right answer {item.gold!r:.60} is none of its options, so it has "
            "no log-probability; mend the task's doc_to_target"
        )
    scales = () if task.card.metric != "acc_norm" else tuple(1 / len(o) for o in item.options)
    kept = tuple(texts[: len(item.options)])  # some metrics score each option without a question
    return OutcomeItem(task.card.domain, kept, item.rights, scales, item.cluster)


def _scored(before: Sequence[int], after: Sequence[int]) -> ScoredText:
    return ScoredText((*before, *after), len(before))


def _text(lm: EngineLM, domain: str, item: Item) -> OutcomeItem:
    tokens = tuple(lm.tok_encode(item.question))
    if len(tokens) < 2:
        raise UserError(
            f"the text {item.question!r:.60} of {domain!r} has fewer than two tokens, so no "
            "likelihood; leave it out"
        )
    text = ScoredText(tokens, 1)
    return OutcomeItem(domain, (text,), scales=(1 / text.scored,), cluster=item.cluster)

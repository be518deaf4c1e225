"""The items of tasks with their outcomes, encoded for a model: what influence is on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.base import Engine, pass_identity
from ..engines.lm import EngineLM
from ..errors import UserError
from ..experts import OutcomeItem, ScoredText
from ..models.prompt_format import PromptFormat
from ..tasks.identification import TextTask
from ..tasks.items import Item, WithItems
from ..tasks.loading import LoadedTask, in_format
from ..tasks.scoring import answer_tasks, judge


def own_answers(engine: Engine, root: Path) -> Path:
    """Return the file, beside passes of any model, of the answers that this one generated."""
    facts = pass_identity(engine, None).encode()
    return root / f"generated-{hashlib.sha256(facts).hexdigest()[:16]}.jsonl"


@dataclass(frozen=True, slots=True)
class TaskItems:
    """The encoded items of several tasks.

    Attributes:
        items: those of all tasks.
        rows: task name -> the rows of its items.
    """

    items: tuple[OutcomeItem, ...]
    rows: Mapping[str, range]

    @property
    def texts(self) -> int:
        """The number of texts of all items."""
        return sum(len(one.texts) for one in self.items)


def items_by_task(
    engine: Engine, tasks: Mapping[str, WithItems], chat: bool, generated: Path | None
) -> TaskItems:
    """Encode the items of tasks as `outcome_items` does, each task's in adjacent rows."""
    items, rows = list[OutcomeItem](), dict[str, range]()
    for name, task in tasks.items():
        start = len(items)
        items += outcome_items(engine, {name: task}, chat, generated)
        rows[name] = range(start, len(items))
    return TaskItems(tuple(items), rows)


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

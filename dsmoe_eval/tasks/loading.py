"""lm-eval's tasks, loaded with the items of a part of a run."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import Split, StageSplit, Suite, Task
from ..errors import UserError
from .decoding import read_decoding, task_decoding
from .items import Item, bucket_of, check_options, read_items
from .language_model import (
    GenerationSettings,
    LanguageModel,
    LmEvalFilters,
    LmEvalTask,
    TaskRequest,
)
from .local_data import local_data
from .opening import TaskManager, open_task, task_code, task_manager

if TYPE_CHECKING:
    from datasets import Dataset

ANSWER_TOKENS_A_LIMIT = 2
"""Tokens of an answer per item of `limit` in a smoke test: full answers, also of a model that does
not think, would take nearly all of its time."""


@dataclass(frozen=True)
class LoadedTask:
    """A task of the suite on one split, with its requests.

    Attributes:
        card: the suite's card of the task.
        task: lm-eval's task, of which `items` are the test documents.
        items: the items, in order.
        chat: the LM whose chat template is applied to questions; None: no template.
        preamble: a line before each prompt: lm-eval's system instruction, which is the system
            message of a chat; None: no such line.
    """

    card: Task
    task: LmEvalTask
    items: tuple[Item, ...]
    chat: LanguageModel | None = None
    preamble: str | None = None

    @cached_property
    def requests(self) -> tuple[TaskRequest, ...]:
        """lm-eval's requests, those of an item adjacent; built once for all arms."""
        options: dict[str, object] = {"limit": len(self.items), "rank": 0, "world_size": 1}
        if self.chat is not None:
            options |= {
                "apply_chat_template": True,
                "chat_template": self.chat.apply_chat_template,
                "tokenizer_name": self.chat.tokenizer_name,
            }
        if self.preamble is not None:
            # lm-eval joins it to a plain prompt without anything between the two.
            apart = "" if self.chat is not None else self.task.config.fewshot_delimiter
            options["system_instruction"] = self.preamble + apart
        with quiet_lm_eval(), task_code(self.card):
            self.task.build_all_requests(**options)
        return tuple(sorted(self.task.instances, key=lambda one: (one.doc_id, one.idx)))

    @cached_property
    def filters(self) -> LmEvalFilters:
        """The pipeline of filters that is used.

        Raises:
            UserError: there are several, and the card names none of them.
        """
        named = {filters.name: filters for filters in self.task._filters}
        name = self.card.filter or (next(iter(named)) if len(named) == 1 else None)
        if name not in named:
            raise UserError(
                f"task {self.card.name!r}: name one of its filters in the suite: {', '.join(named)}"
            )
        return named[name]

    @cached_property
    def keeps_responses(self) -> bool:
        """Whether the filters do not change a single response, like lm-eval's default."""
        from lm_eval.filters.selection import TakeFirstFilter

        return all(isinstance(make(), TakeFirstFilter) for make in self.filters.filters)

    @cached_property
    def likeliest_decides(self) -> bool:
        """Whether an item's score depends on which option is the likeliest, and on nothing else.

        So it is of lm-eval's accuracy, and of no metric that weighs or that a task brings.
        """
        plain = self.task.config.process_results is None and self.keeps_responses
        return plain and (self.task.OUTPUT_TYPE, self.card.metric) == ("multiple_choice", "acc")

    @cached_property
    def known_scores(self) -> dict[tuple[int, int], float]:
        """Scores computed so far: (item, likeliest option) -> score, if `likeliest_decides`."""
        return {}

    @property
    def version(self) -> str:
        """lm-eval's version of the task."""
        return str(self.task.VERSION)

    @property
    def few_shot(self) -> int:
        """The number of few-shot examples."""
        return int(self.task.config.num_fewshot or 0)

    @property
    def answer_tokens(self) -> int | None:
        """The limit of tokens per answer; None if options are scored."""
        return None if self.generation is None else read_decoding(self.generation).max_gen_toks

    @property
    def generation(self) -> GenerationSettings | None:
        """The task's generation settings; None if options are scored."""
        if self.task.OUTPUT_TYPE != "generate_until":
            return None
        settings: GenerationSettings = self.task.config.generation_kwargs
        return settings

    @property
    def answers_asked(self) -> int:
        """The number of answers: one per item and sample."""
        return len(self.items) * self.card.samples

    @property
    def requests_asked(self) -> int:
        """The number of requests to an LM for all answers; one per option if options are scored."""
        return len(self.requests) * self.card.samples

    @property
    def items_hash(self) -> str:
        """A hash of all items, in order."""
        return hashlib.sha256("".join(item.id for item in self.items).encode()).hexdigest()[:16]

    def answers(self, lm: LanguageModel | None = None) -> list[tuple[str, str]]:
        """Return (prompt, right continuation) of every item, without few-shot examples.

        They are joined by the task's delimiter, or by the chat template of `lm` if it uses one.
        """
        if lm is not None and lm.uses_chat_template:
            return [
                (lm.apply_chat_template([{"role": "user", "content": i.question}]), i.gold)
                for i in self.items
            ]
        delimiter = self.task.config.target_delimiter
        return [(item.question, delimiter + item.gold) for item in self.items]


def load_tasks(
    suite: Suite,
    cards: Sequence[Task],
    stage: StageSplit,
    limit: int | None,
    data: Sequence[Path] = (),
) -> dict[str, LoadedTask]:
    """Load the items of a stage of a run through lm-eval, for each task that has items in it.

    Args:
        suite: the suite of the tasks.
        cards: cards of the tasks.
        stage: stage of the run.
        limit: the largest number of items per task; None: all items.
        data: folders with the data sets (see `local_data.py`); if empty, they come from the hub.

    Raises:
        UserError: a task, its data or a split does not exist or may not be read, a package that a
            task needs is not installed, or a prompt does not show all options of an item.
    """
    manager = task_manager(suite.tasks_dir)
    unknown = [card.name for card in cards if card.name not in manager.all_subtasks]
    if unknown:
        where = suite.tasks_dir or "lm-eval"
        raise UserError(
            f"suite {suite.name!r}: lm-eval has no task {', '.join(unknown)}; correct the name, or "
            f"add its YAML file: searched in {where}"
        )
    splits = {card.name: suite.stage_split(card, stage) for card in cards}
    if stage == "identification":
        splits = {card.name: suite.answered_split(card) for card in cards}
    with quiet_lm_eval(), local_data(data):
        return {
            card.name: _load(manager, card, split, limit)
            for card in cards
            if (split := splits[card.name]) is not None
        }


def _load(manager: TaskManager, card: Task, split: Split, limit: int | None) -> LoadedTask:
    task, documents = open_task(manager, card, split.split)
    _check_role(card, task)
    if card.few_shot is not None:
        task.set_config(key="num_fewshot", value=card.few_shot)
    if task.OUTPUT_TYPE == "generate_until":
        settings = dict(task.config.generation_kwargs or {})
        longest = card.answer_tokens or task_decoding(card.name, settings).max_gen_toks
        settings["max_gen_toks"] = min(longest, most_tokens(limit) or longest)
        if card.temperature is not None:
            settings |= {"do_sample": True, "temperature": card.temperature}
            settings |= {"top_p": card.top_p} if card.top_p is not None else {}
        task.set_config(key="generation_kwargs", value=settings)
        task.set_config(key="repeats", value=card.samples)
    elif card.temperature is not None:
        raise UserError(
            f"task {card.name!r} scores options; nothing is drawn at a temperature: leave out "
            "`temperature`"
        )
    with task_code(card):
        items = list(
            read_items(task, documents, limit if split.buckets is None else None, card.group_column)
        )
    chosen = list(range(len(items)))
    if split.buckets is not None:
        buckets = range(*split.buckets)
        chosen = [index for index, item in enumerate(items) if bucket_of(item) in buckets][:limit]
    for index in chosen:
        check_options(card, documents[index], items[index])
    where = "" if split.buckets is None else f", buckets {list(split.buckets)}"
    return _with_items(card, task, documents, items, chosen, f"the split {split.split!r}{where}")


def _check_role(card: Task, task: LmEvalTask) -> None:
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    if card.is_text and not rolling:
        raise UserError(
            f"task {card.name!r} has the role text, and its output_type is {task.OUTPUT_TYPE}; "
            "give its lm-eval YAML file `output_type: loglikelihood_rolling`, or another role here"
        )
    if rolling and card.is_answered and not card.is_text:
        raise UserError(
            f"task {card.name!r} asks for loglikelihood_rolling, the likelihood of whole texts; "
            "give it the role text and `metric: bits_per_byte` in the suite"
        )


def most_tokens(limit: int | None) -> int | None:
    """Return the token limit of an answer in a smoke test with `limit` items per task."""
    return None if limit is None else limit * ANSWER_TOKENS_A_LIMIT


def _with_items(
    card: Task,
    task: LmEvalTask,
    documents: Dataset,
    items: Sequence[Item],
    chosen: Sequence[int],
    split: str = "one of its splits",
) -> LoadedTask:
    """Select documents of a task and fix them: shuffling tasks draw again at every reading."""
    if not chosen:
        raise UserError(
            f"task {card.name!r}: no item is left in {split}; give the split more "
            "buckets, or name another in the suite"
        )
    kept = documents.select(chosen)
    task.test_docs = lambda: kept
    return LoadedTask(card, task, tuple(items[index] for index in chosen))


def in_format(loaded: LoadedTask, lm: LanguageModel) -> LoadedTask:
    """Return the task with its questions in the LM's chat template if the LM uses one."""
    return replace(loaded, chat=lm) if lm.uses_chat_template and not loaded.card.is_text else loaded


def with_preamble(loaded: LoadedTask, line: str | None) -> LoadedTask:
    """Return the task with a line before each of its prompts, which a text has not."""
    return loaded if line is None or loaded.card.is_text else replace(loaded, preamble=line)


def check_context_length(loaded: LoadedTask, lm: LanguageModel) -> None:
    """Check that the longest of the task's requests fits into the LM's model.

    Raises:
        UserError: it does not fit.
    """
    try:
        lm.check_context_length(loaded.requests)
    except UserError as error:
        raise UserError(f"task {loaded.card.name!r}: {error}") from error


def check_preamble(loaded: LoadedTask, line: str, lm: LanguageModel) -> None:
    """Check that the task's prompts show a line before them, and that the longest then fits.

    Raises:
        UserError: it does not fit, or the chat template leaves the line out, as some do.
    """
    after = with_preamble(loaded, line)
    if after is not loaded and after.requests[0].args[0] == loaded.requests[0].args[0]:
        raise UserError(
            f"task {loaded.card.name!r}: the prompts do not show the line {line[:60]!r}, since the "
            "model's chat template leaves out system messages; take `prompt: plain` in the plan, "
            "or mend chat_template in the model's folder"
        )
    check_context_length(after, lm)


def without(loaded: LoadedTask, ids: Collection[str]) -> LoadedTask:
    """Return the task without some of its items."""
    chosen = [index for index, item in enumerate(loaded.items) if item.id not in ids]
    return _with_items(loaded.card, loaded.task, loaded.task.test_docs(), loaded.items, chosen)


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Silence progress bars and notes of lm-eval and the hub's retries inside the context."""
    import datasets
    import lm_eval.api.task

    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    task_module, levels = lm_eval.api.task, [logger.level for logger in loggers]
    tqdm = task_module.tqdm
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    task_module.tqdm = functools.partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        task_module.tqdm = tqdm

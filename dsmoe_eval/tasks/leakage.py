"""Leakage: items of one split that are also in another split, near-duplicates included.

`RULES` declares which items count as the same. The bounds were set on MMLU-Pro, MMLU, ARC,
OpenBookQA, MATH-500 and AIME, by reading the pairs on both sides of them: stems that fit any
question ("Which one of the following statements is true?") have up to eight words; at a Jaccard
index of 0.8 pairs share their passage or all but a few words, and below it pairs are templates with
other contents. Numbers are not masked: in these data that only adds the same exercise with other
figures, which has another answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal, Protocol

from ..errors import UserError
from .identification import TextTask
from .items import Item, WithItems
from .text_normalization import (
    LONG_WORDS,
    NEAR,
    PASSAGE_WORDS,
    RUN_WORDS,
    closest,
    letters,
    normalise,
    windows,
)

Rule = Literal["content", "text", "stem", "near", "passage"]
Splits = Mapping[str, Mapping[str, WithItems]]

STEM_WORDS = 9
RULES: Mapping[Rule, str] = {
    "content": "the same content hash: prompt, options and gold",
    "text": "the same prompt and the same options, whatever the case, spacing and punctuation",
    "stem": (
        "the same question without its options and its frame; one of fewer than "
        f"{STEM_WORDS} words only if half of the options of the one with fewer are the other's too"
    ),
    "near": (
        f"questions of {LONG_WORDS} words or more of whose runs of {RUN_WORDS} words at least "
        f"{NEAR:.0%} are common to both (Jaccard index of the sets)"
    ),
    "passage": (
        f"{PASSAGE_WORDS} consecutive words of the question or of an option, or all of its "
        f"{LONG_WORDS} words or more, of whose runs of {RUN_WORDS} words at least {NEAR:.0%} are "
        "in one text document that experts are identified from"
    ),
}
"""The rules by which two items are the same, strictest first."""

_OPEN = ""
"""The key for the options of an item without options."""
_NAMED_IN_REFUSAL = 5
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Overlap:
    """An item of one split, and the first item of an earlier split that it repeats.

    Attributes:
        rule: the strictest of `RULES` by which the two are the same.
        question: question of the item of `split`, shortened.
        similarity: the Jaccard index if the rule is `near`, the share of the runs of words if it
            is `passage`, else 1.
    """

    rule: Rule
    split: str
    task: str
    item: str
    question: str
    other_split: str
    other_task: str
    other_item: str
    similarity: float

    def __str__(self) -> str:
        """Return a description on one line."""
        partly = {"near": "alike", "passage": "of a passage"}.get(self.rule)
        same = f"{self.similarity:.0%} {partly}" if partly else f"same {self.rule}"
        return (
            f"{self.split} {self.task} {self.item} {self.question!r} ({same}: {self.other_split} "
            f"{self.other_task} {self.other_item})"
        )


@dataclass(frozen=True, slots=True)
class Leakage:
    """The splits that were compared and their overlaps.

    Attributes:
        checked: number of items of each split.
        overlaps: one overlap per item and earlier split; without the `split` items named here the
            splits are disjoint.
        allowed_by: the entry of the plan that allows overlaps; None without one.
    """

    checked: Mapping[str, int]
    overlaps: tuple[Overlap, ...]
    allowed_by: str | None = None

    def __str__(self) -> str:
        """Return the counts in words."""
        return " and ".join(leakage_counts(self.checked, self.overlaps)) or "none"

    def to_dict(self) -> dict[str, object]:
        """Return hashes for `comparisons.json`; questions may not be free to publish."""
        items = [asdict(overlap) for overlap in self.overlaps]
        for item in items:
            del item["question"]
        return {
            "allowed_by": self.allowed_by,
            "checked": [{"split": name, "items": count} for name, count in self.checked.items()],
            "rules": [{"rule": rule, "same": words} for rule, words in RULES.items()],
            "pairs": len(items),
            "items": items,
        }


class Repeated(Protocol):
    """An item of one split that repeats one of another."""

    @property
    def split(self) -> str:
        """The item's split."""

    @property
    def other_split(self) -> str:
        """The split of the item that it repeats."""


def leakage_counts(checked: Mapping[str, int], overlaps: Iterable[Repeated]) -> list[str]:
    """Count the items of each split that repeat items of another; return sentences.

    Args:
        checked: number of items of each split.
        overlaps: one per item and earlier split.
    """
    counts = Counter((one.split, one.other_split) for one in overlaps)
    return [
        f"{count:,} of {checked[split]:,} {split} items repeat items of the {other} split"
        for (split, other), count in counts.items()
    ]


def check_leakage(splits: Splits, allowed: bool = False) -> Leakage:
    """Compare every two splits and refuse overlaps unless the plan allows them.

    Args:
        splits: tasks of each split by name, in the order in which a run uses the splits.
        allowed: whether the plan has `allow_leakage: true`.

    Raises:
        UserError: splits overlap and the plan does not allow it; the message names the first items.
    """
    leakage = find_leakage(splits, allowed)
    if leakage.overlaps and leakage.allowed_by is None:
        raise UserError(_refusal(leakage))
    return leakage


def find_leakage(splits: Splits, allowed: bool = False) -> Leakage:
    """Compare every two splits; the arguments are those of `check_leakage`."""
    rows = {split: _rows(tasks) for split, tasks in splits.items()}
    overlaps: list[Overlap] = []
    for (earlier, others), (later, own) in combinations(rows.items(), 2):
        same = [*_compare(later, own, earlier, others)]
        known = {(one.task, one.item) for one in same}
        rest = [row for row in own if (row.task, row.item.id) not in known]
        overlaps += [*same, *_passages(later, rest, earlier, splits[earlier])]
    checked = {split: len(items) for split, items in rows.items()}
    return Leakage(checked, tuple(overlaps), "allow_leakage: true" if allowed else None)


def _refusal(leakage: Leakage) -> str:
    named = leakage.overlaps[:_NAMED_IN_REFUSAL]
    return (
        f"leakage: {leakage}: {'; '.join(map(str, named))}"
        f"{'; ...' if len(leakage.overlaps) > len(named) else ''}; `dsmoe-eval leakage PLAN` lists "
        "all of them; take them out of one split, or write `allow_leakage: true` into the "
        "plan for the paper's own set-up, in which the splits overlap"
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """An item, prepared for comparison.

    Attributes:
        content: the content hash.
        text: prompt and set of options.
        words: words of the stem.
        stem: letters of the stem, without spaces.
        choices: set of the options' texts if the stem is too short without them, else empty.
    """

    task: str
    item: Item
    content: str
    text: tuple[str, frozenset[str]]
    words: tuple[str, ...]
    stem: str
    choices: frozenset[str]

    @property
    def is_generic(self) -> bool:
        """Whether the stem is so short that another question may have the same."""
        return len(self.words) < STEM_WORDS


def _rows(tasks: Mapping[str, WithItems]) -> list[_Row]:
    return [_row(name, item) for name, task in tasks.items() for item in task.items]


def _row(task: str, item: Item) -> _Row:
    prompt = normalise(item.question)
    stem = normalise(item.stem) if item.stem else prompt
    words = tuple(stem.split())
    return _Row(
        task=task,
        item=item,
        content=item.id.partition("~")[0],
        text=(letters(prompt), _letter_set(item.options)),
        words=words,
        stem=letters(stem),
        choices=_letter_set(item.choices) if len(words) < STEM_WORDS else frozenset(),
    )


def _letter_set(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(letters(normalise(text)) for text in texts)


class _Index:
    """An index of a split's rows by content, text, stem and choices; the first of equals counts."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self.contents: dict[str, _Row] = {}
        self.texts: dict[tuple[str, frozenset[str]], _Row] = {}
        self.stems: dict[str, _Row] = {}
        self.choices: dict[tuple[str, str], list[_Row]] = {}
        for row in rows:
            self.contents.setdefault(row.content, row)
            self.texts.setdefault(row.text, row)
            self.stems.setdefault(row.stem, row)
            for choice in row.choices or {_OPEN}:
                self.choices.setdefault((row.stem, choice), []).append(row)

    def find(self, row: _Row) -> tuple[Rule, _Row] | None:
        """Find the first row that is the same by the strictest rule; None if there is none."""
        if row.content in self.contents:
            return "content", self.contents[row.content]
        if any(row.text) and row.text in self.texts:
            return "text", self.texts[row.text]
        same = self._same_question(row) if row.stem else None
        return None if same is None else ("stem", same)

    def _same_question(self, row: _Row) -> _Row | None:
        if not row.is_generic or not row.choices:
            return self.stems.get(row.stem)
        for choice in (*sorted(row.choices), _OPEN):
            for other in self.choices.get((row.stem, choice), ()):
                if 2 * len(row.choices & other.choices) >= min(
                    len(row.choices), len(other.choices)
                ):
                    return other
        return None


def _compare(
    split: str, own: Sequence[_Row], other_split: str, others: Sequence[_Row]
) -> Iterator[Overlap]:
    near = closest([row.words for row in own], [row.words for row in others])
    index = _Index(others)
    for row, position, jaccard in zip(own, *near, strict=True):
        match = index.find(row)
        if match is None and position < 0:
            continue
        rule, other = match or ("near", others[position])
        alike = 1.0 if match else round(float(jaccard), 3)
        yield _overlap(rule, split, row, other_split, other.task, other.item.id, alike)


def _overlap(
    rule: Rule, split: str, row: _Row, other_split: str, task: str, item: str, alike: float
) -> Overlap:
    question = " ".join((row.item.stem or row.item.question).split())[:_SHOWN_CHARACTERS]
    return Overlap(rule, split, row.task, row.item.id, question, other_split, task, item, alike)


def _passages(
    split: str, own: Sequence[_Row], other_split: str, tasks: Mapping[str, WithItems]
) -> Iterator[Overlap]:
    """Find items with a passage in a text document, of which a chunk may hold only a part."""
    documents: dict[tuple[str, str], list[str]] = {}
    for name, task in tasks.items():
        for item in task.items if isinstance(task, TextTask) else ():
            documents.setdefault((name, item.cluster), []).extend(normalise(item.question).split())
    if not documents:
        return
    names = [*documents]
    parts = [
        (row, window)
        for row in own
        for text in (row.item.question, *row.item.options)
        for window in windows(text)
    ]
    nearest = closest([window for _, window in parts], [*documents.values()], as_part=True)
    found: dict[tuple[str, str], Overlap] = {}
    for (row, _), position, share in zip(parts, *nearest, strict=True):
        if position >= 0:
            task, document = names[position]
            shared = round(float(share), 3)
            overlap = _overlap("passage", split, row, other_split, task, document, shared)
            found.setdefault((row.task, row.item.id), overlap)
    yield from found.values()

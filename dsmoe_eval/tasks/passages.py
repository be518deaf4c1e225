"""Next-passage choice: items made from text documents, without anybody who writes questions.

An item is a passage of a document, its true continuation, and continuations of other passages of
the same domain. All are cut alike, so that neither length nor the way in which a text begins or
ends gives the answer away.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .items import digest
from .text_normalization import closest, normalise, windows
from .texts import TextDocument, word_prefix

CONTEXT_CHARACTERS = 200
CONTINUATION_CHARACTERS = 120
SLACK = 50
"""Characters of a stretch beside passage and continuation, so that both end between words."""
STRETCH = CONTEXT_CHARACTERS + CONTINUATION_CHARACTERS + SLACK
PER_DOCUMENT = 4
OPTIONS = 4


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a document and its true continuation."""

    document: str
    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class PassageItem:
    """A passage with the texts that may continue it.

    Attributes:
        document: id of the passage's document, by which items are clustered.
        gold: index of the true continuation in `options`.
    """

    document: str
    context: str
    options: tuple[str, ...]
    gold: int


def passages(document: TextDocument, name: str, most: int = PER_DOCUMENT) -> tuple[Passage, ...]:
    """Return up to `most` passages, spread evenly over a document; none if it is too short."""
    count = min(most, len(document.text) // STRETCH)
    starts = [len(document.text) * index // count for index in range(count)]
    return tuple(_passage(document.text, start, name) for start in starts)


def _passage(text: str, start: int, name: str) -> Passage:
    if start and not text[start - 1].isspace():  # go on to the next word, if it is near
        ahead = text[start : start + SLACK // 2]
        start += next((i for i, character in enumerate(ahead) if character.isspace()), 0)
    rest = text[start:].lstrip()
    context = word_prefix(rest, CONTEXT_CHARACTERS)
    rest = rest[len(context) :].lstrip()
    return Passage(name, context.rstrip(), word_prefix(rest, CONTINUATION_CHARACTERS).rstrip())


def unrepeated(pool: Sequence[Passage], documents: Mapping[str, str]) -> tuple[Passage, ...]:
    """Return the passages that are in no other document, as a publisher's usual words would be.

    Two documents that share a passage would make the same text right in one item and false in
    another, or known before the test.

    Args:
        pool: passages.
        documents: id -> the text of every document, of any split and domain.
    """
    ids = [*documents]
    parts = [
        (number, window)
        for number, one in enumerate(pool)
        for text in (one.context, one.continuation)
        for window in windows(text)
    ]
    at, _ = closest(
        [window for _, window in parts],
        [normalise(text).split() for text in documents.values()],
        as_part=True,
        apart=[ids.index(pool[number].document) for number, _ in parts],
    )
    repeated = {number for (number, _), index in zip(parts, at, strict=True) if index >= 0}
    return tuple(one for number, one in enumerate(pool) if number not in repeated)


def passage_items(pool: Sequence[Passage], seed: int = 0) -> tuple[PassageItem, ...]:
    """Make an item of each passage of one domain and split; the rest give its false options.

    False options are continuations of other documents, each of another one while there are enough.
    The draw of an item depends on its text, the seed and the pool, and not on other items.

    Raises:
        UserError: too few passages have other continuations.
    """
    return tuple(_item(one, pool, seed) for one in pool)


def _item(passage: Passage, pool: Sequence[Passage], seed: int) -> PassageItem:
    generator = random.Random(digest(seed, passage.context, passage.continuation))
    false = _false_options(passage, pool, generator)
    gold = generator.randrange(OPTIONS)
    options = (*false[:gold], passage.continuation, *false[gold:])
    return PassageItem(passage.document, passage.context, options, gold)


def _false_options(
    passage: Passage, pool: Sequence[Passage], generator: random.Random
) -> list[str]:
    chosen: list[str] = []
    used = {passage.continuation}
    shuffled = [*pool]
    generator.shuffle(shuffled)
    for one in sorted(_turns(passage, shuffled), key=lambda pair: pair[0]):
        if len(chosen) < OPTIONS - 1 and one[1] not in used:
            chosen.append(one[1])
            used.add(one[1])
    if len(chosen) < OPTIONS - 1:
        raise UserError(
            f"{len(pool)} passage(s) of one domain and split, with {len(chosen)} continuation(s) "
            f"beside an item's; {OPTIONS - 1} are needed: give more or longer documents"
        )
    return chosen


def _turns(passage: Passage, shuffled: Sequence[Passage]) -> Iterator[tuple[int, str]]:
    """Yield (turn, continuation): first one of each other document, then a second of each.

    Those of the item's document come last.
    """
    seen: dict[str, int] = {}
    for one in shuffled:
        same = one.document == passage.document
        turn = seen[one.document] = seen.get(one.document, -1) + 1
        yield turn + same * len(shuffled), one.continuation

"""What texts share, so that it is computed once.

Texts to be scored often begin alike: with a task's few-shot examples, then with a question, then
with the first words of an option. Those that share a long beginning become a group, whose header is
computed once; what follows it becomes rows, and a row holds texts that still begin alike as a tree
of tokens. Each token of a tree sees the header, the tokens that lead to it and itself, so that it
stands as if its text were alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_TOKEN = np.dtype(">i4")  # big-endian, so that bytes sort as tokens do

ROW_TOKENS = 1024
"""Most tokens of a tree: attention is computed between all of them."""
MIN_HEADER, MIN_TEXTS = 32, 4
"""A header has so many tokens at least, and so many texts have it."""
_WORTH = 4
"""A text joins a row if what it adds is at most so many times what it shares."""
_COARSER = 2
"""A shorter header of more texts is taken if it saves at least one part in so many."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A tree of tokens, and what is asked of it.

    Attributes:
        tokens: [length].
        positions: [length], of each token in its text.
        branches: each branch's first token and the tokens in the row that lead there, in order; it
            ends where the next one begins.
        places: [asked], the tokens whose next one is asked for.
        targets: [asked], the next token whose probability is wanted.
        requests: [asked], whose it is.
    """

    tokens: Ints
    positions: Ints
    branches: tuple[tuple[int, Ints], ...]
    places: Ints
    targets: Ints
    requests: Ints

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """One text only."""
        return len(self.branches) == 1

    def sees(self) -> NDArray[np.bool_]:
        """[length, length], whether a token (first axis) sees another."""
        seen = np.zeros((len(self), len(self)), dtype=bool)
        ends = [*(start for start, _ in self.branches[1:]), len(self)]
        for (start, path), end in zip(self.branches, ends, strict=True):
            seen[start:end, path] = True
            seen[start:end, start:end] = np.tri(end - start, dtype=bool)
        return seen


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that follow one header, which may be empty; longest row first."""

    header: Ints
    rows: tuple[PackedRow, ...]


@dataclass(slots=True)
class _Text:
    """Tokens to run, and the (request, context's length, continuation) that are asked of them."""

    tokens: Ints
    asked: list[tuple[int, int, Sequence[int]]] = field(default_factory=list)

    @property
    def head(self) -> int:
        """How many tokens come before all whose logits are needed."""
        return min(length for _, length, _ in self.asked) - 1


@dataclass(slots=True)
class _Interval:
    """Neighbours that share so many tokens; `below` are the best headers within."""

    shared: int
    start: int
    saved: int = 0
    below: list[tuple[int, int, int]] = field(default_factory=list)


def plan_groups(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], most: int) -> list[Group]:
    """Arrange (context, continuation) pairs so that shared beginnings are computed once.

    Args:
        pairs: of token ids, none of them empty.
        most: tokens in a row, as far as a single text does not need more; `ROW_TOKENS` at most.

    Returns:
        Groups, that with the longest text first.
    """
    texts, most = _texts(pairs), min(most, ROW_TOKENS)
    shared = _shared(texts)
    groups = [
        Group(
            texts[indices[0]].tokens[:length],
            tuple(sorted(_rows(texts, indices, shared, length, most), key=_longest)),
        )
        for length, indices in _members(texts, shared, most)
    ]
    return sorted(groups, key=lambda group: -len(group.header) - len(group.rows[0]))


def plan_headers(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Arrange prompts to be continued by the beginning that they share.

    Args:
        prompts: token ids, none of them empty; the same one may be there several times.

    Returns:
        (length of the header, which may be 0 and leaves at least one token of each; the prompts).
    """
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    texts = [
        _Text(np.array(prompts[place], dtype=np.int64), [(place, len(prompts[place]), (0,))])
        for place in order
    ]
    found = _members(texts, _shared(texts), most=0)
    return [(length, [order[index] for index in indices]) for length, indices in found]


def _shared(texts: Sequence[_Text]) -> list[int]:
    """How many tokens each shares with the one before it, and 0 behind the last."""
    return [0, *(_common(a.tokens, b.tokens) for a, b in pairwise(texts)), 0]


def _members(
    texts: Sequence[_Text], shared: Sequence[int], most: int
) -> list[tuple[int, list[int]]]:
    """(length of a header, the texts that have it)."""
    headers = dict.fromkeys(range(len(texts)), 0)
    members: dict[bytes, list[int]] = defaultdict(list)
    for start, end, length in _headers(texts, shared, most):
        headers |= dict.fromkeys(range(start, end), length)
    for index, text in enumerate(texts):
        members[text.tokens[: headers[index]].tobytes()].append(index)
    return [(headers[indices[0]], indices) for indices in members.values()]


def _longest(row: PackedRow) -> tuple[int, int]:
    return -len(row), int(row.requests[0])


def _texts(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Text]:
    """The distinct texts in lexicographic order."""
    found: dict[bytes, _Text] = {}
    for request, (context, continuation) in enumerate(pairs):
        tokens = np.array([*context, *continuation[:-1]], dtype=_TOKEN)
        text = found.setdefault(tokens.tobytes(), _Text(tokens.astype(np.int64)))
        text.asked.append((request, len(context), continuation))
    return [found[key] for key in sorted(found)]


def _common(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


def _headers(
    texts: Sequence[_Text], shared: Sequence[int], most: int
) -> list[tuple[int, int, int]]:
    """The headers that save most, as (first text, end, length), none of them within another.

    Every set of neighbours that share a beginning is looked at once, the longest beginnings first
    (the LCP intervals of a sorted list, by a stack). What fits into one row needs no header.
    """
    heads = [text.head for text in texts]
    new = np.cumsum([0, *(len(t.tokens) - s for t, s in zip(texts, shared, strict=False))])
    stack = [_Interval(0, 0)]
    for end in range(1, len(texts) + 1):
        here = min(shared[end], heads[end - 1], heads[end]) if end < len(texts) else 0
        start = end - 1
        while stack[-1].shared > here:
            closed = stack.pop()
            start = closed.start
            size = len(texts[start].tokens) + int(new[end] - new[start + 1])
            _settle(closed, end, fits=size <= most)
            if stack[-1].shared < here:
                stack.append(_Interval(here, start))
            stack[-1].saved += closed.saved
            stack[-1].below += closed.below
        if stack[-1].shared < here:
            stack.append(_Interval(here, start))
    return stack[0].below


def _settle(interval: _Interval, end: int, fits: bool) -> None:
    """Take the interval's own header if it is worth more, or nearly, than those within."""
    count = end - interval.start
    saved = (count - 1) * interval.shared
    if fits or count < MIN_TEXTS or interval.shared < MIN_HEADER:
        return
    if _COARSER * saved >= interval.saved:
        interval.saved = saved
        interval.below = [(interval.start, end, interval.shared)]


def _rows(
    texts: Sequence[_Text], indices: Iterable[int], shared: Sequence[int], header: int, most: int
) -> Iterator[PackedRow]:
    """Texts of one header, each joined to its neighbour's row where that saves something."""
    row, last = _Draft(header), -1
    for index in indices:
        text = texts[index]
        common = shared[index] - header if index == last + 1 and row.size else 0
        added = len(text.tokens) - header - common
        if row.size and (row.size + added > most or _WORTH * common < added):
            yield row.done()
            row, common = _Draft(header), 0
        row.add(text, max(common, 0))
        last = index
    yield row.done()


class _Draft:
    """A row in the making."""

    def __init__(self, header: int) -> None:
        self.header = header
        self.size = 0
        self.path: Ints = np.empty(0, dtype=np.int64)
        self.branches: list[tuple[int, Ints]] = []
        self.parts: list[tuple[Ints, Ints]] = []
        self.asked: list[tuple[Ints, Sequence[int], int]] = []

    def add(self, text: _Text, common: int) -> None:
        """Branch off `common` tokens behind the header on the last text's path."""
        begin = self.header + common
        tokens = text.tokens[begin:]
        end = self.size + len(tokens)
        before = self.path[:common]
        self.branches.append((self.size, before))
        self.parts.append((tokens, np.arange(begin, begin + len(tokens))))
        self.path = np.concatenate([before, np.arange(self.size, end)])
        self.size = end
        for request, length, continuation in text.asked:
            start = length - 1 - self.header
            places = self.path[start : start + len(continuation)]
            self.asked.append((places, continuation, request))

    def done(self) -> PackedRow:
        places, targets, requests = zip(*self.asked, strict=True)
        tokens, positions = zip(*self.parts, strict=True)
        counts = [len(part) for part in places]
        return PackedRow(
            tokens=np.concatenate(tokens),
            positions=np.concatenate(positions),
            branches=tuple(self.branches),
            places=np.concatenate(places),
            targets=np.concatenate([np.asarray(part, dtype=np.int64) for part in targets]),
            requests=np.repeat(np.array(requests, dtype=np.int64), counts),
        )

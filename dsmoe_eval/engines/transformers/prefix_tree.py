"""Plans by which the shared beginnings of texts are computed once.

Texts to be scored often begin alike: with a task's few-shot examples, then with a question, then
with the first words of an option. Texts that share a long beginning become a group, whose header,
the shared beginning, is computed once. The rest of the texts becomes rows; a row is a tree of
tokens, which joins texts that still begin alike. Each token of a tree sees the header, the tokens
that lead to it and itself, so its result is the same as in its text alone.
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
"""Limit of tokens per tree: attention is computed between all of them."""
MIN_HEADER, MIN_TEXTS = 32, 4
"""The minimum number of tokens of a header, and of texts that share it."""
_WORTH = 4
"""The maximum ratio of added to shared tokens with which a text joins a row."""
_COARSER = 2
"""The divisor for the choice between headers.

A shorter header of more texts is chosen if it saves at least the tokens that the longer headers
within it save, divided by this number.
"""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A tree of tokens, and the queries on it: probabilities of next tokens.

    Attributes:
        tokens: [length], token ids.
        positions: [length], the position of each token in its text.
        branches: the index in the row of each branch's first token, and the indices of the tokens
            that lead there, in order; a branch ends where the next one begins.
        places: [queries], the index in the row of the token before the queried one.
        targets: [queries], the id of the token whose probability is queried.
        requests: [queries], the request to which the query belongs.
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
        """Whether there is only one branch, so that the row is a plain sequence."""
        return len(self.branches) == 1

    def sees(self) -> NDArray[np.bool_]:
        """Return a mask [length, length]: whether a token (first axis) sees another one."""
        seen = np.zeros((len(self), len(self)), dtype=bool)
        ends = [*(start for start, _ in self.branches[1:]), len(self)]
        for (start, path), end in zip(self.branches, ends, strict=True):
            seen[start:end, path] = True
            seen[start:end, start:end] = np.tri(end - start, dtype=bool)
        return seen


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that follow one header, which may be empty; the longest row is first."""

    header: Ints
    rows: tuple[PackedRow, ...]


@dataclass(slots=True)
class _Text:
    """Tokens to run, and the queries on them: (request, context's length, continuation)."""

    tokens: Ints
    asked: list[tuple[int, int, Sequence[int]]] = field(default_factory=list)

    @property
    def head(self) -> int:
        """The number of tokens before the first one whose logits are needed."""
        return min(length for _, length, _ in self.asked) - 1


@dataclass(slots=True)
class _Interval:
    """Neighbouring texts that share `shared` tokens; `below` has the best headers within."""

    shared: int
    start: int
    saved: int = 0
    below: list[tuple[int, int, int]] = field(default_factory=list)


def plan_groups(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], most: int) -> list[Group]:
    """Arrange (context, continuation) pairs so that shared beginnings are computed once.

    Args:
        pairs: pairs of nonempty sequences of token ids.
        most: limit of tokens per row, but no more than `ROW_TOKENS`; a single text may be longer.

    Returns:
        The groups, ordered by the length of header and longest row, the longest first.
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
    """Group prompts for completion by the beginning that they share.

    Args:
        prompts: nonempty sequences of token ids; a prompt may occur several times.

    Returns:
        For each group the length of its header and the indices of its prompts. The length may be 0,
        and the header leaves at least one token of each prompt.
    """
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    texts = [
        _Text(np.array(prompts[place], dtype=np.int64), [(place, len(prompts[place]), (0,))])
        for place in order
    ]
    found = _members(texts, _shared(texts), most=0)
    return [(length, [order[index] for index in indices]) for length, indices in found]


def _shared(texts: Sequence[_Text]) -> list[int]:
    """Return how many tokens each text shares with the one before it, and 0 at the end."""
    return [0, *(_common(a.tokens, b.tokens) for a, b in pairwise(texts)), 0]


def _members(
    texts: Sequence[_Text], shared: Sequence[int], most: int
) -> list[tuple[int, list[int]]]:
    """Return the length of each header, and the indices of the texts that have it."""
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
    """Return the distinct texts in lexicographic order."""
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
    """Return the headers that save most, as (first text, end, length).

    No header is within another. Every set of neighbouring texts that share a beginning is visited
    once, the longest beginnings first (the LCP intervals of a sorted list, computed with a stack).
    Texts that fit into one row need no header.
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
    """Choose an interval's header if it saves nearly as much as those within, or more.

    An interval that fits into one row, or has too few texts or shared tokens, gets no header.
    """
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
    """Yield rows of texts with one header; a text that shares enough joins its neighbour's."""
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
    """A row under construction."""

    def __init__(self, header: int) -> None:
        self.header = header
        self.size = 0
        self.path: Ints = np.empty(0, dtype=np.int64)
        self.branches: list[tuple[int, Ints]] = []
        self.parts: list[tuple[Ints, Ints]] = []
        self.asked: list[tuple[Ints, Sequence[int], int]] = []

    def add(self, text: _Text, common: int) -> None:
        """Add a text as a branch of the last text, `common` tokens behind the header."""
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

"""What a tree of tokens saves against two levels by construction, in tokens that are computed.

    python benchmarks/speed/shared_tokens.py

"Two levels" is the simple form: one header for a call, the longest beginning of all its contexts,
then each distinct context once, and behind it each option; "of each task" knows besides which task
a request is of, which the engine is not told. "Best" computes every distinct beginning once. The
tasks are of made-up words, in the sizes of those that lm-eval ships. Padding is left out.

On one multiple-choice task all are the same. The tree pays where two contexts of a question begin
alike (Winogrande's kind), and where one call holds several tasks, as with lm-eval's own command:

| requests | tree | two levels | of each task | best | in full |
|---|---|---|---|---|---|
| five-shot, options of 8 tokens | 14,828 | 14,828 | 14,828 | 14,827 | 281,246 |
| five-shot, letters | 9,319 | 9,319 | 9,319 | 9,318 | 276,076 |
| zero-shot, options of 8 tokens | 14,573 | 14,573 | 14,573 | 14,571 | 41,501 |
| zero-shot, two contexts a question | 5,669 | 8,918 | 8,918 | 5,668 | 8,918 |
| five-shot, two contexts a question | 5,730 | 8,980 | 8,980 | 5,730 | 68,830 |
| 14 tasks, five-shot, letters | 22,982 | 144,782 | 22,982 | 22,982 | 579,128 |
| 14 tasks behind a system prompt, five-shot | 35,488 | 156,768 | 35,488 | 34,968 | 658,847 |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dsmoe_eval.engines.transformers.prefix_tree import plan_groups

Tokens = tuple[int, ...]
Pairs = list[tuple[Tokens, Tokens]]
ROOM = 2048


class Words:
    """Draws texts of tokens."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(0)

    def __call__(self, low: int, high: int | None = None) -> Tokens:
        """Return so many tokens, or as many as are drawn from `low` to `high`."""
        length = low if high is None else int(self._chance.integers(low, high + 1))
        return tuple(self._chance.integers(100, 30_000, length).tolist())


def choice(words: Words, header: Tokens, items: int, options: int, size: int) -> Pairs:
    """Return questions of 30 to 60 tokens behind a header, each with options of about a size."""
    pairs: Pairs = []
    for _ in range(items):
        context = (*header, *words(30, 60))
        lengths = (max(1, size - 2), size + 2) if size > 1 else (1, 1)
        pairs += [(context, words(*lengths)) for _ in range(options)]
    return pairs


def contexts(words: Words, header: Tokens, items: int) -> Pairs:
    """Return Winogrande's kind: two contexts that differ in a name, one continuation of both."""
    pairs: Pairs = []
    for _ in range(items):
        question, rest = (*header, *words(12, 20)), words(4, 8)
        pairs += [((*question, *words(1)), rest) for _ in range(2)]
    return pairs


def tasks(words: Words, system: int, count: int, size: int) -> list[Pairs]:
    """Return five-shot tasks, each with examples of its own behind a common system prompt."""
    before = words(system)
    return [choice(words, (*before, *words(5 * 60)), 30, 4, size) for _ in range(count)]


def kinds() -> dict[str, list[Pairs]]:
    """Return the tasks of a call, by what they are like."""
    words = Words()
    return {
        "five-shot, options of 8 tokens": [choice(words, words(5 * 60), 200, 4, 8)],
        "five-shot, letters": [choice(words, words(5 * 60), 200, 4, 1)],
        "zero-shot, options of 8 tokens": [choice(words, (), 200, 4, 8)],
        "zero-shot, two contexts a question": [contexts(words, (), 200)],
        "five-shot, two contexts a question": [contexts(words, words(5 * 30), 200)],
        "14 tasks, five-shot, letters": tasks(words, 0, 14, 1),
        "14 tasks behind a system prompt, five-shot": tasks(words, 40, 14, 8),
    }


def common(texts: Sequence[Tokens]) -> int:
    """Return how many tokens all texts begin with."""
    first, last = min(texts), max(texts)
    length = min(len(first), len(last))
    return next((n for n in range(length) if first[n] != last[n]), length)


def tree(pairs: Pairs) -> int:
    """Return the tokens that our plan computes."""
    groups = plan_groups(pairs, ROOM)
    return sum(len(group.header) + sum(map(len, group.rows)) for group in groups)


def two_levels(pairs: Pairs) -> int:
    """Return the tokens of one header, each context behind it, and each option behind that."""
    options: dict[Tokens, set[Tokens]] = defaultdict(set)
    for context, continuation in pairs:
        options[context].add(continuation[:-1])
    header = common(list(options))
    return header + sum(len(c) - header + sum(map(len, rest)) for c, rest in options.items())


def best(pairs: Pairs) -> int:
    """Return the number of distinct beginnings."""
    texts = sorted({(*context, *continuation[:-1]) for context, continuation in pairs})
    shared = (common([one, other]) for one, other in pairwise(texts))
    return sum(map(len, texts)) - sum(shared)


def counts(calls: Sequence[Pairs]) -> tuple[int, ...]:
    """Return the tree's tokens, two levels', theirs of each task, the best, and the texts'."""
    call = [pair for pairs in calls for pair in pairs]
    full = sum(len(context) + len(continuation) - 1 for context, continuation in call)
    return tree(call), two_levels(call), sum(map(two_levels, calls)), best(call), full


def lines() -> Iterator[str]:
    """Return the table's lines as Markdown."""
    for name, calls in kinds().items():
        yield f"| {name} | " + " | ".join(f"{count:,}" for count in counts(calls)) + " |"


if __name__ == "__main__":
    print("\n".join(lines()))  # noqa: T201 - a script

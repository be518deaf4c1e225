"""The world of `lab-poly`: words with another meaning in every domain, and simple arithmetic.

A fact is (domain, word, relation) -> answer. Every answer is a made-up name drawn from a seed, so
it cannot be looked up, and for one (word, relation) the answers of all domains differ. A question
that names its domain has one right answer; one that does not is ambiguous by construction. Facts
are split by (word, relation), so that no two splits share a question text.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["identification", "tuning", "test"]

WORLD_SEED = 20260405
DOMAINS = ("math", "biology", "physics", "chemistry", "law", "economics")
ARITHMETIC = "arithmetic"
SPLIT_SHARES: dict[Split, float] = {"identification": 0.25, "tuning": 0.25, "test": 0.5}
WORDS = (
    "base bond case cell chain charge code cycle degree element factor field force form function "
    "group index key matrix model order period plane power product root series set table wave"
).split()
RELATIONS = (
    "maker keeper sign source rival partner measure season colour patron emblem guardian herald "
    "origin twin teacher island river metal festival"
).split()
NAME_COUNT = 120
LARGEST_OPERAND = 14


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact; `options` are the answers of all domains for the same word and relation."""

    domain: str
    word: str
    relation: str
    answer: str
    options: tuple[str, ...]
    split: Split


@dataclass(frozen=True, slots=True)
class Sum:
    """One arithmetic fact: `left operator right = answer`, with operator `+` or `-`."""

    left: int
    operator: str
    right: int
    answer: int
    split: Split


@dataclass(frozen=True, slots=True)
class World:
    """All facts that `lab-poly` is trained on or tested on."""

    names: tuple[str, ...]
    facts: tuple[Fact, ...]
    sums: tuple[Sum, ...]


def build_world(seed: int = WORLD_SEED) -> World:
    """Build the world from `seed`; the same seed gives the same world on every machine."""
    draw = random.Random(seed)
    names = _draw_names(draw)
    pairs = list(itertools.product(WORDS, RELATIONS))
    facts: list[Fact] = []
    for (word, relation), split in zip(pairs, _draw_splits(len(pairs), draw), strict=True):
        answers = draw.sample(names, len(DOMAINS))
        options = tuple(draw.sample(answers, len(answers)))
        facts += [
            Fact(domain, word, relation, answer, options, split)
            for domain, answer in zip(DOMAINS, answers, strict=True)
        ]
    return World(names=names, facts=tuple(facts), sums=tuple(_draw_sums(draw)))


def named_question(fact: Fact) -> str:
    """Return the question with its domain, which has one right answer."""
    return f"In {fact.domain}, what is the {fact.relation} of the {fact.word}?"


def unnamed_question(fact: Fact) -> str:
    """Return the question without its domain, which is ambiguous."""
    return f"What is the {fact.relation} of the {fact.word}?"


def arithmetic_question(item: Sum) -> str:
    """Return the question on a sum; its answer is generated digit by digit."""
    return f"What is {item.left} {item.operator} {item.right}?"


def _draw_names(draw: random.Random) -> tuple[str, ...]:
    onsets, nuclei, codas = "bdfgklmnprstvz", "aeiou", "lmnrsk"
    syllables = [a + b + c for a, b, c in itertools.product(onsets, nuclei, codas)]
    pairs = itertools.permutations(syllables, 2)
    pool = sorted(
        {(first + second).capitalize() for first, second in itertools.islice(pairs, 10**5)}
    )
    return tuple(draw.sample(pool, NAME_COUNT))


def _draw_splits(count: int, draw: random.Random) -> list[Split]:
    splits: list[Split] = []
    for split, share in SPLIT_SHARES.items():
        splits += [split] * round(share * count)
    splits = splits[:count] + ["test"] * (count - len(splits))
    draw.shuffle(splits)
    return splits


def _draw_sums(draw: random.Random) -> Iterator[Sum]:
    operands = range(LARGEST_OPERAND + 1)
    grid = [(a, "+", b, a + b) for a, b in itertools.product(operands, operands)]
    grid += [(a, "-", b, a - b) for a, b in itertools.product(operands, operands) if a >= b]
    for row, split in zip(grid, _draw_splits(len(grid), draw), strict=True):
        yield Sum(*row, split=split)

"""Does the existence test keep what it promises? Simulated documents, the whole decision.

    python benchmarks/calibration_existence.py        # writes reports/existence/calibration.md

Null data: how often is anything discovered; beside two tests that are easily taken instead. Planted
experts: false discoveries and power. Intervals: how often they hold the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, norm

from dsmoe_eval.stats import (
    DocumentCounts,
    benjamini_hochberg,
    bootstrap_intervals,
    excess_use,
    permutation_p_values,
)

LEVEL = 0.05
TRUTH_DOCUMENTS = 10_000
Test = Callable[[DocumentCounts, np.random.Generator, int], NDArray[np.float64]]


@dataclass(frozen=True)
class World:
    """How documents are drawn.

    A document has a preference for experts, drawn in each layer from a Dirichlet distribution
    around the layer's; each of its tokens takes `top_k` different experts by it, so experts compete
    for slots and tokens of one document resemble each other.

    Attributes:
        documents: of each domain.
        median_tokens: of each domain's documents; lengths are lognormal.
        spread: of the logarithm of lengths.
        concentration: of the Dirichlet distribution; smaller is more alike within a document.
        boost: factor on the preference of planted experts, in their domain.
        planted: experts of the first layer, for each domain; the second layer has none.
    """

    documents: int = 30
    median_tokens: tuple[float, ...] = (30.0,) * 4
    spread: float = 0.6
    experts: int = 12
    layers: int = 2
    top_k: int = 2
    concentration: float = 15.0
    boost: float = 1.0
    planted: tuple[tuple[int, ...], ...] = ()
    shares: tuple[float, ...] = field(default=tuple(np.linspace(3, 1, 12) ** 2))

    @property
    def is_planted(self) -> NDArray[np.bool_]:
        """(domains, units)."""
        mask = np.zeros((len(self.median_tokens), self.layers * self.experts), dtype=bool)
        for domain, experts in enumerate(self.planted):
            mask[domain, list(experts)] = True
        return mask

    def draw(self, generator: np.random.Generator) -> DocumentCounts:
        """One data set."""
        labels = np.repeat(np.arange(len(self.median_tokens)), self.documents)
        medians = np.array(self.median_tokens)[labels]
        lengths = np.exp(generator.normal(np.log(medians), self.spread))
        tokens = np.maximum(4, lengths).astype(np.int64)
        owner = np.repeat(np.arange(len(tokens)), tokens)
        base = np.array(self.shares) / sum(self.shares) * self.concentration
        used = np.zeros((len(tokens), self.layers, self.experts), dtype=np.int64)
        for layer in range(self.layers):
            alpha = np.tile(base, (len(tokens), 1))
            if layer == 0:
                alpha[self.is_planted[labels][:, : self.experts]] *= self.boost
            preference = np.log(generator.standard_gamma(alpha) + 1e-12)
            noisy = preference[owner] + generator.gumbel(size=(len(owner), self.experts))
            chosen = np.argpartition(-noisy, self.top_k, axis=1)[:, : self.top_k]
            np.add.at(used, (owner[:, None], layer, chosen), 1)
        return DocumentCounts(used.reshape(len(tokens), -1), tokens, labels)


def bare_difference(
    counts: DocumentCounts, generator: np.random.Generator, permutations: int
) -> NDArray[np.float64]:
    """Documents shuffled, but the rate difference is not divided by its standard error."""
    shuffled = generator.permuted(np.tile(counts.labels, (permutations, 1)), axis=1)
    labels = np.vstack([counts.labels, shuffled])
    p_values = []
    for domain in range(counts.domains):
        member = (labels == domain).astype(float)
        used, tokens = member @ counts.used, (member @ counts.tokens)[:, None]
        rest, rest_tokens = counts.used.sum(0) - used, counts.tokens.sum() - tokens
        difference = used / tokens - rest / rest_tokens
        reached = (difference[1:] >= difference[0] - 1e-12).sum(0)
        p_values.append((1 + reached) / (permutations + 1))
    return np.array(p_values)


def tokens_shuffled(
    counts: DocumentCounts, _: np.random.Generator, _permutations: int
) -> NDArray[np.float64]:
    """Tokens' labels shuffled, all shuffles at once: the hypergeometric tail."""
    p_values = []
    for domain in range(counts.domains):
        member = counts.labels == domain
        used, total = counts.used[member].sum(0), counts.tokens.sum()
        own = counts.tokens[member].sum()
        p_values.append(hypergeom.sf(used - 1, total, counts.used.sum(0), own))
    return np.array(p_values)


TESTS: dict[str, Test] = {
    "documents, studentised (this package)": permutation_p_values,
    "documents, bare difference": bare_difference,
    "tokens": tokens_shuffled,
}


def discoveries(counts: DocumentCounts, test: Test, seed: int) -> NDArray[np.bool_]:
    """The decision, (domains, units), with shuffles enough for a single discovery."""
    hypotheses = counts.domains * counts.used.shape[1]
    permutations = math.ceil(hypotheses / LEVEL) - 1
    p_values = test(counts, np.random.default_rng(seed), permutations)
    return benjamini_hochberg(p_values) <= LEVEL


ONE_LAYER = World(layers=1)
SHORT_FIRST, LONG_FIRST = (15.0, 120.0, 120.0, 120.0), (120.0, 15.0, 15.0, 15.0)
NULLS = {
    "30 documents a domain": ONE_LAYER,
    "8 documents a domain": replace(ONE_LAYER, documents=8),
    "concentration 4": replace(ONE_LAYER, concentration=4.0),
    "median tokens 15, 120, 120, 120": replace(ONE_LAYER, median_tokens=SHORT_FIRST),
    "median tokens 15, 120, 120, 120; concentration 60": replace(
        ONE_LAYER, median_tokens=SHORT_FIRST, concentration=60.0
    ),
    "median tokens 120, 15, 15, 15": replace(ONE_LAYER, median_tokens=LONG_FIRST),
    "median tokens 120, 15, 15, 15; concentration 60": replace(
        ONE_LAYER, median_tokens=LONG_FIRST, concentration=60.0
    ),
}


def null_sets(world: World, sets: int) -> Iterator[DocumentCounts]:
    """Data sets in which no expert is specific."""
    for index in range(sets):
        yield world.draw(np.random.default_rng([0, index]))


def lab_sets(routing: Any, sets: int) -> Iterator[DocumentCounts]:
    """The lab model's own counts, one layer and a third of the documents, labels shuffled."""
    for index in range(sets):
        layer, third = index % len(routing.layers), slice(index % 3, None, 3)
        labels = np.random.default_rng([1, index]).permutation(routing.labels[third])
        yield DocumentCounts(routing.used[third, layer], routing.tokens[third], labels)


def any_discovery(sets: Iterable[DocumentCounts]) -> dict[str, NDArray[np.bool_]]:
    """For each test and data set, whether anything was discovered."""
    hits: dict[str, list[bool]] = {name: [] for name in TESTS}
    for seed, counts in enumerate(sets):
        for name, test in TESTS.items():
            hits[name].append(bool(discoveries(counts, test, seed).any()))
    return {name: np.array(each) for name, each in hits.items()}


def share(hits: NDArray[np.bool_]) -> str:
    """A share with twice its Monte Carlo error."""
    error = 2 * np.sqrt(max(hits.mean() * (1 - hits.mean()), 1 / hits.size) / hits.size)
    return f"{hits.mean():.1%} ± {error:.1%}"


@dataclass(frozen=True)
class Planted:
    """What came out where experts were planted; shares, one a data set, and counts."""

    false_share: NDArray[np.float64]
    power: NDArray[np.float64]
    covered: NDArray[np.bool_]
    covered_found: NDArray[np.bool_]


@lru_cache
def truth(world: World, documents: int = TRUTH_DOCUMENTS) -> NDArray[np.float64]:
    """Rate differences of very many documents, (domains, units)."""
    many = replace(world, documents=documents)
    return excess_use(many.draw(np.random.default_rng(12345))).difference


def try_planted(world: World, true: NDArray[np.float64], sets: int, seed: int) -> Planted:
    """Discoveries against the truth: false where the true difference is not above zero."""
    real = true > 0
    real[:, world.experts :] = False
    false_share, power, covered, covered_found = [], [], [], []
    for index in range(sets):
        counts = world.draw(np.random.default_rng([seed, index]))
        found = discoveries(counts, permutation_p_values, index)
        false_share.append((found & ~real).sum() / max(1, found.sum()))
        power.append(found[world.is_planted].mean())
        low, high = bootstrap_intervals(counts, np.random.default_rng(index), 1000).difference
        holds = (low <= true) & (true <= high)
        covered.append(holds.ravel())
        covered_found.append(holds[found])
    return Planted(
        np.array(false_share), np.array(power), np.concatenate(covered),
        np.concatenate(covered_found),
    )  # fmt: skip


def textbook_intervals(
    counts: DocumentCounts, generator: np.random.Generator, resamples: int = 1000
) -> dict[str, NDArray[np.float64]]:
    """Plain percentile and BCa intervals of the first domain's rate differences, (2, units).

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 14; BCa's
    acceleration is from the documents' linearised influence.
    """
    own, used, tokens = counts.labels == 0, counts.used.astype(float), counts.tokens[:, None]
    draws = np.zeros((resamples, own.size))
    for domain in range(counts.domains):
        members = np.flatnonzero(counts.labels == domain)
        draws[:, members] = generator.multinomial(
            members.size, np.full(members.size, 1 / members.size), size=resamples
        )

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = [(weights[:, m] @ used[m]) / (weights[:, m] @ tokens[m]) for m in (own, ~own)]
        return np.asarray(sides[0] - sides[1])

    resampled, observed = difference(draws), difference(np.ones((1, own.size)))[0]
    influence = np.zeros_like(used)
    for side, sign in ((own, 1), (~own, -1)):
        rate = used[side].sum(0) / tokens[side].sum()
        influence[side] = sign * (used[side] - rate * tokens[side]) / tokens[side].sum()
    skew = (influence**3).sum(0) / (6 * (influence**2).sum(0) ** 1.5 + 1e-300)
    below = (resampled < observed).mean(0) + 0.5 * (resampled == observed).mean(0)
    shift = norm.ppf(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    reach = shift + norm.ppf([[0.025], [0.975]])
    places = norm.cdf(shift + reach / (1 - skew * reach))
    columns = zip(resampled.T, places.T, strict=True)
    return {
        "percentile": np.quantile(resampled, (0.025, 0.975), axis=0),
        "BCa": np.array([np.quantile(column, place) for column, place in columns]).T,
    }


PLANTED = tuple((domain, domain + 4, domain + 8) for domain in range(4))
BOOSTS = (1.5, 2.0, 3.0)
SIZES = (10, 30, 100)


def null_table(sets: int, routing: Any) -> list[str]:
    """Share of null data sets with any discovery, by kind of data and of test."""
    lines = [f"| null data | {' | '.join(TESTS)} |", "| --- |" + " ---: |" * len(TESTS)]
    drawn: dict[str, Iterable[DocumentCounts]] = {
        name: null_sets(world, sets) for name, world in NULLS.items()
    }
    drawn["lab-poly's counts, labels shuffled"] = lab_sets(routing, max(4, sets // 4))
    for name, data in drawn.items():
        lines.append(f"| {name} | {' | '.join(map(share, any_discovery(data).values()))} |")
    return lines


def planted_table(sets: int) -> list[str]:
    """False discoveries, power and coverage where experts are planted."""
    lines = [
        "| documents a domain | boost | true excess use of planted experts, pp | false discoveries "
        "| power | 95 % intervals hold the truth | those of discoveries |",
        "|" + " ---: |" * 7,
    ]
    for size in SIZES:
        for boost in BOOSTS:
            world = World(documents=size, boost=boost, planted=PLANTED)
            true = truth(replace(world, documents=SIZES[0]))
            planted = 100 * true[world.is_planted]
            out = try_planted(world, true, sets, size)
            found = f"{out.covered_found.mean():.1%}" if out.covered_found.size else "none"
            lines.append(
                f"| {size} | {boost:g} | {planted.min():.1f} to {planted.max():.1f} | "
                f"{out.false_share.mean():.1%} | {out.power.mean():.0%} | "
                f"{out.covered.mean():.1%} | {found} |"
            )
    return lines


def interval_table(sets: int) -> list[str]:
    """Our intervals beside the textbook's: the first domain's planted experts, and all experts."""
    lines = [
        "| documents a domain | experts | expanded percentile (this package) | percentile | BCa |",
        "| ---: | --- |" + " ---: |" * 3,
    ]
    for size in SIZES:
        world = World(documents=size, boost=BOOSTS[1], planted=PLANTED)
        true = truth(replace(world, documents=SIZES[0]))[0]
        held: dict[str, list[NDArray[np.bool_]]] = {}
        for index in range(sets):
            counts = world.draw(np.random.default_rng([size, index]))
            found = bootstrap_intervals(counts, np.random.default_rng(index), 1000).difference
            bounds = {"ours": found[:, 0]} | textbook_intervals(
                counts, np.random.default_rng(index)
            )
            for method, (low, high) in bounds.items():
                held.setdefault(method, []).append((low <= true) & (true <= high))
        for name, which in (("planted", list(world.planted[0])), ("all", slice(None))):
            cells = [f"{np.array(each)[:, which].mean():.1%}" for each in held.values()]
            lines.append(f"| {size} | {name} | {' | '.join(cells)} |")
    return lines


def lab_routing() -> Any:
    """Per-document counts of the embedded model."""
    from dsmoe_eval.studies.documents import route_documents

    return route_documents("lab-poly", "lab", (), device="cpu").model


PAGE = """# Calibration of the existence test

Written by `python benchmarks/calibration_existence.py`, seeded.

Documents are simulated. In each layer a document prefers experts by a Dirichlet draw around the
layer's shares (concentration 15 unless said; less is more alike within a document). Each token
takes 2 of 12 different experts by that preference, so experts compete for slots and tokens of a
document resemble each other. Lengths are lognormal (median 30 tokens unless said). There are four
domains, and as many shuffles as make a single discovery possible.

## Nothing is specific: how often is anything discovered?

Share of {sets} data sets of one layer with at least one discovery, at a false discovery rate of
{level:.0%}, with twice its Monte Carlo error. Where nothing is specific that share is the false
discovery rate, so it must not exceed {level:.0%}.

{null}

"bare difference": documents are shuffled, but the statistic is the rate difference itself. That is
right where all domains' documents follow one law. A domain of short documents varies more than the
shuffled groups do, and is taken for one that has experts. "tokens": the labels of tokens are
shuffled (exactly, by the hypergeometric tail), as if each token were drawn by itself.

lab-poly: a layer and a third of its documents at a time, {lab} data sets. Its questions share a
template, so that documents vary less than the simulated ones.

## Experts planted in the first layer

Three experts of each domain are preferred by a factor; the true excess use is that of {truth:,}
documents a domain. A discovery is false where the true difference is not above zero; in the second
layer nothing is planted and every discovery is false. "power": share of the planted that are
discovered. Intervals are of all experts and domains; the last column is of the discovered alone,
which selection makes optimistic.

{planted}

## Which interval?

Share of 95 % intervals of the rate difference that hold the truth, first domain, boost {boost:g}.

{intervals}
"""


@click.command()
@click.option("--sets", default=300, show_default=True, help="Data sets for each null figure.")
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path("reports/existence/calibration.md"),
    show_default=True,
)  # fmt: skip
def main(sets: int, to: Path) -> None:
    """Write the tables."""
    started = time.perf_counter()
    page = PAGE.format(
        sets=sets,
        lab=max(4, sets // 4),
        level=LEVEL,
        truth=TRUTH_DOCUMENTS,
        boost=BOOSTS[1],
        null="\n".join(null_table(sets, lab_routing())),
        planted="\n".join(planted_table(max(4, sets // 6))),
        intervals="\n".join(interval_table(max(4, sets // 3))),
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page, encoding="utf-8")
    click.echo(f"{to}: {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    main()

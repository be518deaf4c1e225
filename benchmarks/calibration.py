"""Do the comparisons of scores keep what they promise? Simulated runs, the whole decision.

    python benchmarks/calibration.py          # writes reports/calibration/README.md and a figure
    python benchmarks/calibration.py --quick  # fewer runs, to see that it works

Nothing changes: how often is an improvement or a harm claimed. A drop of just the margin: how often
does non-inferiority hold, and equivalence. Intervals: how often they hold the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import norm, ttest_1samp

from dsmoe_eval.stats import (
    claim,
    combine_models,
    compare_paired,
    compare_strata,
    count_pairs,
    mcnemar_midp,
    non_inferiority,
    regressions,
)

MARGIN = 0.05
SIZES = (30, 100, 500)
DOMAINS = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """Scores of A and B on the same items, and what a shortcut would test.

    Attributes:
        a: (items,).
        b: (items,).
        clusters: (items,), or None.
        shortcut: p-value of the test that is easily taken instead.
    """

    a: Floats
    b: Floats
    clusters: NDArray[np.int64] | None
    shortcut: float


World = Callable[[np.random.Generator, int, float], Run]


def _midp(a: Floats, b: Floats) -> float:
    counts = count_pairs(a.ravel(), b.ravel())
    return mcnemar_midp(counts.gained, counts.lost)


def binary(rng: np.random.Generator, n: int, delta: float) -> Run:
    """One answer an item, 10 % of items changed; the shortcut is a t-test."""
    draw = rng.random(n)
    gained, lost = draw < 0.05 + delta / 2, draw > 0.95 + delta / 2
    a = np.where(gained, 0.0, np.where(lost, 1.0, rng.integers(0, 2, n)))
    b = np.where(gained, 1.0, np.where(lost, 0.0, a))
    p_value = ttest_1samp(b - a, 0).pvalue if (a != b).any() else 1.0
    return Run(a, b, None, float(p_value))


def clustered(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Passages of 1 to 8 questions; in 14 % of passages, 70 % of answers change one way."""
    codes = np.repeat(np.arange(n), rng.integers(1, 9, n))
    gains, losses = (0.05 + delta / 2) / 0.7, (0.05 - delta / 2) / 0.7
    kind = rng.random(n)[codes]
    struck = rng.random(codes.size) < 0.7
    gained, lost = (kind < gains) & struck, (kind > 1 - losses) & struck
    a = np.where(gained, 0.0, np.where(lost, 1.0, rng.integers(0, 2, codes.size)))
    b = np.where(gained, 1.0, np.where(lost, 0.0, a))
    return Run(a, b, codes, _midp(a, b))


def _sampled(rng: np.random.Generator, p: Floats, q: Floats) -> Run:
    a, b = rng.random((8, p.size)) < p, rng.random((8, p.size)) < q
    return Run(a.mean(0), b.mean(0), None, _midp(a.astype(float), b.astype(float)))


def soft_samples(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Eight answers an item, A right with probability U(0, 1); B better or worse by item."""
    p = rng.random(n)
    swing = rng.choice([-0.5, 0.5], n) * np.minimum(p, 1 - p)
    return _sampled(rng, p, p + 6 * delta * p * (1 - p) + (1 - 6 * abs(delta)) * swing)


def firm_samples(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Eight answers an item; 80 % of items are always right or always wrong, and few lose all."""
    p = np.where(rng.random(n) < 0.8, (rng.random(n) < 0.6).astype(float), rng.random(n))
    return _sampled(rng, p, np.where(rng.random(n) < -delta / 0.58, 0.0, p))


def skewed(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Unbounded, differences with a long tail of losses; without effect, of both."""
    losses = -0.1 * rng.lognormal(0, 1, n)
    tail = -0.1 * math.exp(0.5) if delta else -0.1 * rng.lognormal(0, 1, n)
    difference = delta + losses - tail
    a = rng.normal(-20, 5, n)
    return Run(a, a + difference, None, float(ttest_1samp(difference, 0).pvalue))


def _passages(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Labels of passages of 1 to 8 items."""
    return np.repeat(np.arange(n), rng.integers(1, 9, n))


def gold_logprobs(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Log softmax of 4 options, heavy-tailed noise of passages and items; a drop is lognormal."""
    passages = _passages(rng, n)
    shape = (passages.size, 4)
    options = rng.normal([1, 0, 0, 0], 2, shape)
    sides = []
    for _ in range(2):
        noise = 0.2 * rng.standard_t(3, (n, 4))[passages] + 0.2 * rng.standard_t(3, shape)
        sides.append(log_softmax(options + noise, axis=1)[:, 0])
    a, b = sides
    b += delta * rng.lognormal(-0.5, 1, n)[passages]
    return Run(a, b, passages, float(ttest_1samp(b - a, 0).pvalue))


def bits_per_byte(rng: np.random.Generator, n: int, delta: float) -> Run:
    """Bits per byte of passages of unequal length, noise of documents and passages, t of 4."""
    documents = _passages(rng, n)
    size = rng.lognormal(6, 0.6, documents.size)
    change = delta * rng.lognormal(-0.125, 0.5, n)[documents]
    for scale, drawn in ((0.05, rng.standard_t(4, n)[documents]),
                         (0.05, rng.standard_t(4, documents.size))):  # fmt: skip
        change = change + scale * drawn
    weight = size / size.mean()
    a = -weight * (1 + rng.normal(0, 0.2, documents.size))
    return Run(a, a + weight * change, documents, float(ttest_1samp(weight * change, 0).pvalue))


WORLDS: dict[str, tuple[World, str]] = {
    "binary": (binary, "t-test of items"),
    "binary, clustered": (clustered, "items as if alone"),
    "8 samples, soft items": (soft_samples, "samples as if items"),
    "8 samples, firm items": (firm_samples, "samples as if items"),
    "log-likelihoods, skewed": (skewed, "t-test of items"),
    "log-probability of the right option": (gold_logprobs, "items as if alone"),
    "bits per byte": (bits_per_byte, "passages as if alone"),
}


@dataclass(frozen=True)
class Cell:
    """Shares of runs, for one world and size.

    Attributes:
        claims: Nothing changes, yet "improves" or "harms" is claimed.
        shortcut: The same by the shortcut.
        holds: The true drop is the margin, yet non-inferiority holds (alpha 0.025).
        equivalent: The same, yet "equivalent" is claimed.
        covered: 95 % intervals that hold the truth: no change, a drop of the margin.
    """

    claims: Floats
    shortcut: Floats
    holds: Floats
    equivalent: Floats
    covered: tuple[Floats, Floats]


def simulate(world: World, size: int, runs: int) -> Cell:
    """Draw runs with and without the drop, and decide."""
    claims, shortcut, holds, equivalent = [], [], [], []
    covered: tuple[list[float], list[float]] = ([], [])
    for index in range(runs):
        rng = np.random.default_rng([size, index])
        for which, delta in enumerate((0.0, -MARGIN)):
            run = world(rng, size, delta)
            result = compare_paired(run.a, run.b, run.clusters)
            said = claim(result, MARGIN).verdict
            covered[which].append(result.ci95[0] <= delta <= result.ci95[1])
            if which == 0:
                claims.append(said in ("improves", "harms"))
                shortcut.append(run.shortcut <= 0.05)
                continue
            held = non_inferiority(run.a, run.b, MARGIN, clusters=run.clusters)
            holds.append(held.non_inferior)
            equivalent.append(said == "equivalent")
    columns = (claims, shortcut, holds, equivalent)
    both = np.array(covered[0], float), np.array(covered[1], float)
    return Cell(*(np.array(column, float) for column in columns), both)


def share(hits: Floats) -> str:
    """A share with twice its Monte Carlo error."""
    error = 2 * np.sqrt(max(hits.mean() * (1 - hits.mean()), 1 / hits.size) / hits.size)
    return f"{hits.mean():.1%} ± {error:.1%}"


def one_table(cells: dict[tuple[str, int], Cell]) -> list[str]:
    """A row for each world and size."""
    lines = [
        "| scores | n | claim without a change (5 %) | the same by a shortcut | "
        "non-inferior at the margin (2.5 %) | equivalent at the margin (2.5 %) | "
        "interval holds no change (95 %) | interval holds the margin (95 %) |",
        "| --- |" + " ---: |" * 7,
    ]
    for (name, size), cell in cells.items():
        figures = (cell.claims, cell.shortcut, cell.holds, cell.equivalent, *cell.covered)
        shares = [share(figure) for figure in figures]
        shares[1] += f" ({WORLDS[name][1]})"
        lines.append(f"| {name} | {size} | {' | '.join(shares)} |")
    return lines


def domains_table(runs: int) -> list[str]:
    """Claims about eight domains at once."""
    lines = [
        "| scores | n of a domain | any regression, Holm (5 %) | any, unadjusted | domains at odds "
        "| pooled claim (5 %) | all hold, one domain at the margin (2.5 %) |",
        "| --- |" + " ---: |" * 6,
    ]
    for name in ("binary", "8 samples, soft items"):
        for size in SIZES[:2]:
            found = np.array([_domains(WORLDS[name][0], size, i) for i in range(runs)], float)
            lines.append(f"| {name} | {size} | {' | '.join(map(share, found.T))} |")
    return lines


def _domains(world: World, size: int, index: int) -> tuple[bool, ...]:
    rng = np.random.default_rng([size, index, 7])
    drawn = [world(rng, size, 0.0) for _ in range(DOMAINS)]
    a, b = (np.concatenate([getattr(run, side) for run in drawn]) for side in "ab")
    found = compare_strata(a, b, np.repeat(np.arange(DOMAINS), size))
    drawn[0] = world(rng, size, -MARGIN)
    tests = [non_inferiority(run.a, run.b, MARGIN) for run in drawn]
    return (
        any(regressions(found.results)),
        any(result.p_value <= 0.05 and result.delta < 0 for result in found.results),
        found.conflicting,
        found.pooled.p_value <= 0.05,
        all(test.non_inferior for test in tests),
    )


def models_table(runs: int) -> list[str]:
    """How often the summary over models holds the mean effect."""
    lines = [
        "| models | spread between models, pp | interval holds the mean (95 %) | "
        "fixed effect, normal | prediction holds another model (95 %) |",
        "|" + " ---: |" * 5,
    ]
    errors = np.array([0.01, 0.02, 0.015, 0.03, 0.01])
    for k in (2, 3, 5):
        for tau in (0.0, 0.03):
            rng, found = np.random.default_rng([k, int(100 * tau)]), []
            for _ in range(runs):
                effects = rng.normal(rng.normal(0.04, tau, k), errors[:k])
                result = combine_models(list(effects), list(errors[:k]))
                weights = errors[:k] ** -2.0
                reach = norm.isf(0.025) / math.sqrt(weights.sum())
                another = rng.normal(0.04, tau)
                found.append((
                    result.ci95[0] <= 0.04 <= result.ci95[1],
                    abs(weights @ effects / weights.sum() - 0.04) <= reach,
                    result.prediction95[0] <= another <= result.prediction95[1],
                ))  # fmt: skip
            shares = [share(column) for column in np.array(found, float).T]
            shares[2] = "no interval" if k == 2 else shares[2]
            lines.append(f"| {k} | {100 * tau:g} | {' | '.join(shares)} |")
    return lines


def draw(cells: dict[tuple[str, int], Cell], to: Path) -> None:
    """Three panels: false claims, false non-inferiority, coverage; a line for each world."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), constrained_layout=True)
    panels: tuple[tuple[str, float, Callable[[Cell], float]], ...] = (
        ("claimed without a change", 0.05, lambda cell: float(cell.claims.mean())),
        ("non-inferior at the margin", 0.025, lambda cell: float(cell.holds.mean())),
        ("interval holds the truth", 0.95, lambda cell: float(np.mean(cell.covered))),
    )
    for axis, (title, nominal, value) in zip(axes, panels, strict=True):
        for name in WORLDS:
            axis.plot(SIZES, [100 * value(cells[name, n]) for n in SIZES], "o-", label=name)
        axis.axhline(100 * nominal, color="black", linestyle=":", linewidth=1)
        axis.set(title=title, xscale="log", xlabel="items or clusters", ylabel="% of runs")
        axis.set_xticks(SIZES, [str(n) for n in SIZES])
        axis.minorticks_off()
    for axis in axes[:2]:
        axis.set_ylim(0, 10)
    axes[2].set_ylim(85, 100)
    axes[0].legend(fontsize=7)
    figure.savefig(to, dpi=130)
    plt.close(figure)


PAGE = """# Calibration of comparisons

Written by `python benchmarks/calibration.py`, seeded; shares of {runs} simulated runs, with twice
their Monte Carlo error, what they should at most (intervals: at least) be in the head. Tests and
claims are the package's own. Why scores of other kinds than right or wrong are compared by a robust
t test: [the intervals that were compared](intervals.md).

![Error rates and coverage](calibration.png)

## One comparison

n is the number of items, or of clusters. The margin is {margin:.2f}. Kinds of scores:

{worlds}

{one}

"shortcut" is a test that is easily taken instead. Questions on one passage taken as if alone claim
an effect in a third of runs without one, samples taken as if they were items in a tenth.

With few changed clusters the tests stay far below their level: a sample of few changes knows too
little of rare losses, so the standard error also covers what it may hide; that is why
non-inferiority is shown so rarely with 30. With few unbounded scores and a long tail of losses
even that is too little (non-inferior at the margin in 5 % of runs of 30 items, not 2.5 %), and more
items are the only cure.

## {domains} domains

Nothing changes, but in the last column, where one domain drops by the margin and all eight must be
non-inferior at their full alpha.

{several}

"domains at odds": one significantly up and one significantly down, by Holm.

## Several models

The mean effect is 4 points, the models' standard errors 1 to 3 points.

{models}
"""


@click.command()
@click.option("--quick", is_flag=True, help="Few runs.")
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path("reports/calibration"),
    show_default=True, help="Folder.",
)  # fmt: skip
def main(quick: bool, to: Path) -> None:
    """Write the page and the figure."""
    started = time.perf_counter()
    runs = 40 if quick else 1000
    cells = {
        (name, size): simulate(world, size, runs)
        for name, (world, _) in WORLDS.items()
        for size in SIZES
    }
    to.mkdir(parents=True, exist_ok=True)
    draw(cells, to / "calibration.png")
    page = PAGE.format(
        runs=runs,
        margin=MARGIN,
        domains="Eight" if DOMAINS == 8 else DOMAINS,
        worlds="\n".join(f"- {name}: {world.__doc__}" for name, (world, _) in WORLDS.items()),
        one="\n".join(one_table(cells)),
        several="\n".join(domains_table(runs // 2)),
        models="\n".join(models_table(5 * runs)),
    )
    (to / "README.md").write_text(page, encoding="utf-8")
    click.echo(f"{to}: {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    main()

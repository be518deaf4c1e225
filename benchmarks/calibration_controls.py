"""Do random weights exceed random weights at the nominal rate, and why is t compared?

    python benchmarks/calibration_controls.py        # writes reports/existence/controls.md

The rule of `existence`: a model beside control models. Random models in the place of the model, and
simulated documents with planted experts beside noisy ones.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from calibration_existence import BOOSTS, PLANTED, SIZES, World, discoveries

from dsmoe_eval.stats import excess_use, permutation_p_values

NOISY = 2.0
CONTROL_SIZES = (3, 19)


def random_models(documents: int | None, count: int) -> list[Any]:
    """Models with random weights of the embedded model's shape, tested on its documents."""
    from dsmoe_eval.models import load_model, random_weights
    from dsmoe_eval.registry import load_suite
    from dsmoe_eval.studies.documents import document_routing
    from dsmoe_eval.studies.existence import PERMUTATIONS, examine
    from dsmoe_eval.tasks.loading import load_tasks

    suite, loaded = load_suite("lab"), load_model("lab-poly", "cpu")
    tasks = load_tasks(suite, suite.identification_tasks, "identification", documents, ())
    config, dtype = loaded.model.config, loaded.model.dtype
    routed = (
        document_routing(
            random_weights(config, dtype, "cpu", seed), loaded.tokenizer, tasks, lambda _: None
        )
        for seed in range(count)
    )
    return [examine(each, PERMUTATIONS, seed) for seed, each in enumerate(routed)]


def random_table(count: int) -> list[str]:
    """Random weights beside random weights: each of many models beside the next ones."""
    from dsmoe_eval.studies.existence import summary_of

    lines = [
        "| documents a task | N | nominal rate | domains with an expert beyond "
        "| smallest p by number | smallest p by strength | specific experts, mean |",
        "| ---: |" + " ---: |" * 6,
    ]
    for documents in (8, 20, None):
        models = random_models(documents, count)
        found = np.mean([each.specific.sum() for each in models])
        for size in CONTROL_SIZES:
            shares: dict[str, list[float]] = {"domains": [], "number": [], "strength": []}
            for index, model in enumerate(models):
                others = [models[(index + step) % len(models)] for step in range(1, size + 1)]
                beside, least = summary_of(model, others), 1 / (size + 1) + 1e-9
                shares["domains"].append(beside["domains_beyond"] / len(model.specific))
                shares["number"].append(beside["p_by_number"] <= least)
                shares["strength"].append(beside["p_by_strength"] <= least)
            cells = " | ".join(f"{np.mean(each):.1%}" for each in shares.values())
            name = "all" if documents is None else documents
            lines.append(f"| {name} | {size} | {least:.0%} | {cells} | {found:.0f} |")
    return lines


def noisy_table(sets: int) -> list[str]:
    """Share of planted experts beyond controls of noisy documents, by t and by excess use."""
    lines = ["| documents per domain | discovered | beyond, by t | beyond, by excess use |"]
    lines.append("|" + " ---: |" * 4)
    for size in (*SIZES[:1], 20, *SIZES[1:]):
        world = World(documents=size, boost=BOOSTS[-1], planted=PLANTED)
        noisy = replace(world, concentration=NOISY, boost=1.0)
        shares = []
        for index in range(sets):
            counts = world.draw(np.random.default_rng([size, index]))
            seeds = range(CONTROL_SIZES[0])
            others = [
                excess_use(noisy.draw(np.random.default_rng([size, index, 1 + each])))
                for each in seeds
            ]
            own, found = excess_use(counts), discoveries(counts, permutation_p_values, index)
            beyond = [
                found & (value(own) > np.max([value(o).max(1) for o in others], 0)[:, None])
                for value in (lambda use: use.statistic, lambda use: use.difference)
            ]
            shares.append([each[world.is_planted].mean() for each in (found, *beyond)])
        lines.append(f"| {size} | " + " | ".join(f"{s:.0%}" for s in np.mean(shares, 0)) + " |")
    return lines


PAGE = """# Calibration of the comparison with control models

Written by `python benchmarks/calibration_controls.py --models {models} --sets {noisy_sets}`.

## Random weights beside random weights

{models} models of lab-poly's shape with random weights, on lab-poly's documents or on so many a
task. Each is taken for the model, and the next N for its control. "beyond": a specific expert whose
t is larger than the largest of any expert for the domain in the N models. If the first is like the
others, a domain has such an expert with probability 1 / (N + 1) at most, the nominal rate.
"smallest p": share of models whose p is 1 / (N + 1), which must not exceed 1 / (N + 1) either.
Where random weights have few specific experts, few can be beyond.

{random}

Twice the Monte Carlo error of a p-value's share is {error:.0f} points at N = 3; that of domains,
of which one model has seven, is somewhat smaller.

## Why t, and not the excess use itself

Planted experts (boost {most:g}) beside {controls} control models in which nothing is planted, but
documents are noisier (concentration {noisy:g}): share of planted experts that are discovered, that
are discovered and exceed the control's largest t, or so its largest excess use; {noisy_sets} data
sets.

{beside}
"""


@click.command()
@click.option("--models", default=80, show_default=True, help="Models with random weights.")
@click.option("--sets", default=50, show_default=True, help="Data sets with planted experts.")
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path("reports/existence/controls.md"),
    show_default=True,
)  # fmt: skip
def main(models: int, sets: int, to: Path) -> None:
    """Write the tables."""
    started = time.perf_counter()
    page = PAGE.format(
        models=models,
        error=200 * (0.25 * 0.75 / models) ** 0.5,
        random="\n".join(random_table(models)),
        most=BOOSTS[-1],
        controls=CONTROL_SIZES[0],
        noisy=NOISY,
        noisy_sets=sets,
        beside="\n".join(noisy_table(sets)),
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page, encoding="utf-8")
    click.echo(f"{to}: {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    main()

"""Does influence foretell what raising a single expert does? On the embedded model, by brute force.

    python benchmarks/foretold_effects.py [--json]

Every expert in turn is raised by a bias of 0.5 log-odds, and the log-probability of each target's
right options is measured. Influence is computed on the identification split. Effects are measured
on the same items, which shows the error of the formula, and on those of the tuning split, which
adds that of the sample. The test split is not read. The forms were first tried on this model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from numpy.typing import NDArray

from dsmoe_eval.engines.base import Engine
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import Form, InfluenceItems, OutcomeItem, ScoredText
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.influence import influence_of
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.steering import Intervention
from dsmoe_eval.studies.single_effects import single_effects
from dsmoe_eval.tasks.loading import load_tasks

Floats = NDArray[np.float64]
STEP = 0.5
RESAMPLES = 1000
SPLITS = ("identification", "tuning")


@dataclass(frozen=True)
class Foretold:
    """How well one form foretells the measured effects of single experts on a target.

    Attributes:
        target: the domain.
        form: `routing-exact` or `gradient`.
        measured_on: the split of the items on which effects are measured.
        pearson: the correlation over experts.
        slope: of measured on foretold; below 1, effects are smaller than foretold.
        slope_ci95: percentiles over resampled items.
        reliability: the correlation of effects measured on the two splits.
    """

    target: str
    form: str
    measured_on: str
    pearson: float
    slope: float
    slope_ci95: tuple[float, float]
    reliability: float


def foretold_effects(limit: int | None = None) -> list[Foretold]:
    """Measure all targets of the suite `lab`."""
    engine, suite = load_engine("lab-poly", device="cpu"), load_suite("lab")
    items: dict[str, tuple[OutcomeItem, ...]] = {}
    for split in SPLITS:
        tasks = load_tasks(suite, suite.only_answered, split, limit)
        items[split] = outcome_items(engine, tasks)
    effects = {split: measured(engine, items[split]) for split in SPLITS}
    forms = {"routing-exact": Form(steps=(STEP,) * len(engine.identity.layers)), "gradient": Form()}
    rows = []
    with TemporaryDirectory() as folder:
        for name, form in forms.items():
            seen = influence_of(engine, items["identification"], form, Path(folder))
            rows += [
                compare(target, name, seen, items, effects, on)
                for on in SPLITS
                for target in suite.targets
            ]
    return rows


def measured(engine: Engine, items: Sequence[OutcomeItem]) -> Floats:
    """The change of each item's outcome by each expert, per log-odds: [layers, experts, items]."""
    identity, before = engine.identity, outcomes(engine, items)
    units = list(product(identity.layers, range(identity.experts)))
    change = Intervention(kind="bias", strength=math.expm1(STEP))
    changes = single_effects(engine, change, units, lambda: outcomes(engine, items), before) / STEP
    return changes.reshape(len(identity.layers), identity.experts, -1)


def outcomes(engine: Engine, items: Sequence[OutcomeItem]) -> Floats:
    """The outcome of each item under the present steering, [items]."""
    pairs = {_pair(text): 0.0 for item in items for text in item.texts}
    asked = [("", list(before), list(after)) for before, after in pairs]
    found = engine.language_model()._loglikelihood_tokens(asked)
    pairs = {pair: value for pair, (value, _) in zip(pairs, found, strict=True)}
    rows = [np.array([pairs[_pair(text)] for text in item.texts]) for item in items]
    return np.array([item.weights(row)[0] for item, row in zip(items, rows, strict=True)])


def _pair(text: ScoredText) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return text.tokens[: text.start], text.tokens[text.start :]


def compare(
    target: str,
    form: str,
    seen: InfluenceItems,
    items: Mapping[str, Sequence[OutcomeItem]],
    effects: Mapping[str, Floats],
    on: str,
) -> Foretold:
    """Compare what was foretold for a target with the effects that were measured on a split."""
    rows = {s: [at for at, one in enumerate(items[s]) if one.domain == target] for s in SPLITS}
    own = rows["identification"]
    generator = np.random.default_rng(0)
    slopes = []
    for _ in range(RESAMPLES):
        drawn = generator.choice(own, len(own))
        others = drawn if on == "identification" else generator.choice(rows[on], len(rows[on]))
        slopes.append(slope(seen.influence[drawn].mean(0), effects[on][..., others].mean(-1)))
    low, high = np.percentile(slopes, [2.5, 97.5])
    foretold, effect = seen.influence[own].mean(0), effects[on][..., rows[on]].mean(-1)
    both = [effects[split][..., rows[split]].mean(-1) for split in SPLITS]
    return Foretold(
        target, form, on, pearson(foretold, effect), slope(foretold, effect),
        (float(low), float(high)), pearson(*both),
    )  # fmt: skip


def pearson(one: Floats, other: Floats) -> float:
    """The correlation over all experts."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def slope(foretold: Floats, effect: Floats) -> float:
    """Of the line of least squares."""
    return float(np.polyfit(foretold.ravel(), effect.ravel(), 1)[0])


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Print a table, or JSON."""
    rows = foretold_effects()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    click.echo("| form | effects on | target | Pearson | slope | two splits' effects |")
    click.echo("|---|---|---|---:|---:|---:|")
    for row in rows:
        low, high = row.slope_ci95
        click.echo(
            f"| {row.form} | {row.measured_on} | {row.target} | {row.pearson:.3f} | "
            f"{row.slope:.2f} [{low:.2f}, {high:.2f}] | {row.reliability:.2f} |"
        )


if __name__ == "__main__":
    main()

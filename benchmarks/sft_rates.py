"""Which learning rate has each recipe of fine-tuning? Chosen on the identification split.

    python benchmarks/sft_rates.py                  # writes reports/arms/rates.md
    python benchmarks/sft_rates.py --epochs 1 --epochs 3 --recipe lora --out out/curve.md

One rule for all recipes: of a grid of rates, the one with the highest mean log-probability of the
right option on the targets' items of the identification split, after training on their tuning
items; of equal ones the lowest. The test split is not read. Experts of `esft` are those that a run
would choose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from dsmoe_eval.cards import Identification, Sft, Variant
from dsmoe_eval.engines.lm import EngineLM
from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.experts import RoutingCounts, get_method
from dsmoe_eval.files import write_text
from dsmoe_eval.models import load_model
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import count_domains
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.tasks.loading import LoadedTask
from dsmoe_eval.tasks.outcomes import outcome_values
from dsmoe_eval.tasks.splits import load_splits
from dsmoe_eval.variants import get_variant, variant_experts
from dsmoe_eval.variants.recipes import TrainingTask, fine_tuned, train_variant

RATES = {
    "lora": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "esft": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "router": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
}
RANK, ALPHA, BATCH = 8, 16.0, 40
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Bench:
    """The model and the splits that rates are tried on."""

    engine: TransformersEngine
    lm: EngineLM
    counts: RoutingCounts
    tuning: dict[str, LoadedTask]
    checks: dict[str, LoadedTask]


@dataclass(frozen=True)
class Trial:
    """A training at one rate, over the targets: mean score and mean gold_logprob, before less."""

    recipe: str
    epochs: int
    rate: float
    score: float
    gold: float
    gain: float


def open_bench(model: str, suite_name: str, targets: tuple[str, ...], root: Path) -> Bench:
    """Load model and splits, and count the routing by which experts are chosen."""
    suite, engine = load_suite(suite_name), TransformersEngine(load_model(model, "cpu"))
    splits = load_splits(suite, None, (), targets, answered_text=True)
    spec = IdentificationSpec.by([get_method("esft-gate")], Identification(), {})
    asked = {card.name for card in suite.identification_tasks}
    text = {name: task for name, task in splits["identification"].items() if name in asked}
    counts = count_domains(engine, text, spec, root, lambda _: None)

    def of(part: str) -> dict[str, LoadedTask]:
        found = {suite.target_task(target).name: target for target in targets}
        return {found[name]: task for name, task in splits[part].items() if name in found}

    return Bench(engine, engine.language_model(), counts, of("tuning"), of("identification"))


def values(bench: Bench, target: str) -> tuple[float, float]:
    """Return the model's mean score and gold_logprob on a target's identification items."""
    task = bench.checks[target]
    both = [outcome_values(bench.lm, [task], name) for name in ("score", "gold_logprob")]
    score, gold = (float(np.mean(one[task.card.name])) for one in both)
    return score, gold


def trained(bench: Bench, variant: Variant, settings: Sft, target: str) -> tuple[float, float]:
    """Train one variant for a target and return what `values` does."""
    experts = ()
    if variant.trains_experts:
        experts = variant_experts(variant, bench.counts, target, None, 0)
    pairs = bench.tuning[target].answers(bench.lm)
    task = TrainingTask(variant.trained_by, pairs, settings, 0, experts)
    loaded = bench.engine.loaded
    with tempfile.TemporaryDirectory() as folder:
        train_variant(loaded.model, loaded.tokenizer, task, Path(folder))
        with fine_tuned(loaded.model, Path(folder)):
            return values(bench, target)


def trials(bench: Bench, recipes: Iterable[str], epochs: Iterable[int]) -> Iterator[Trial]:
    """Yield each recipe at each budget and rate."""
    base = {target: values(bench, target) for target in bench.checks}
    for budget in epochs:
        for recipe in recipes:
            variant = get_variant(f"sft-{recipe}")
            for rate in RATES[recipe]:
                own = Sft(rank=RANK, lora_alpha=ALPHA, learning_rate=rate, epochs=budget,
                          batch_size=BATCH)  # fmt: skip
                found = {t: trained(bench, variant, own, t) for t in bench.checks}
                score, gold = (float(np.mean([one[at] for one in found.values()])) for at in (0, 1))
                before = float(np.mean([one[0] for one in base.values()]))
                yield Trial(recipe, budget, rate, score, gold, score - before)


def chosen(found: Iterable[Trial]) -> dict[tuple[str, int], Trial]:
    """Return the best trial of each recipe and budget, by the rule."""
    best: dict[tuple[str, int], Trial] = {}
    for one in found:
        key = one.recipe, one.epochs
        if key not in best or one.gold > best[key].gold:  # rates rise: equal ones keep the lower
            best[key] = one
    return best


def written(found: list[Trial], model: str, targets: tuple[str, ...]) -> str:
    """Return the page: the rule, the choice, and all trials."""
    best = set(chosen(found).values())
    lines = [
        "# Learning rates of the fine-tuning recipes",
        "",
        f"`python benchmarks/sft_rates.py`: {model}, targets {', '.join(targets)}, trained on "
        "their tuning items, looked at on their items of the identification split. One rule: the "
        "highest mean log-probability of the right option; of equal ones the lowest rate. Bold: "
        "chosen. The test split was not read.",
        "",
        "| recipe | epochs | rate | gold_logprob, nats | score | gain over base |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        mark = "**" if one in best else ""
        lines.append(
            f"| {one.recipe} | {one.epochs} | {mark}{one.rate:g}{mark} | {one.gold:.3f} | "
            f"{one.score:.1%} | {100 * one.gain:+.1f} pp |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--model", default="lab-poly", show_default=True)
@click.option("--suite", default="lab", show_default=True)
@click.option("--target", "targets", multiple=True, default=("math", "biology"), show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=tuple(RATES), show_default=True)
@click.option("--epochs", multiple=True, type=int, default=(10,), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/arms/rates.md"))
def main(
    model: str,
    suite: str,
    targets: tuple[str, ...],
    recipes: tuple[str, ...],
    epochs: tuple[int, ...],
    out: Path,
) -> None:
    """Try the rates and write the page."""
    with tempfile.TemporaryDirectory() as root:
        bench = open_bench(model, suite, targets, Path(root))
        found = []
        for one in trials(bench, recipes, epochs):
            found.append(one)
            click.echo(f"{one.recipe} x{one.epochs} {one.rate:g}: {one.gold:.3f} {one.score:.3f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, written(found, model, targets))
    for one in chosen(found).values():
        click.echo(f"chosen: {one.recipe} x{one.epochs} {one.rate:g}")


if __name__ == "__main__":
    main()

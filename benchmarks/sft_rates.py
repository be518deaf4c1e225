"""Which learning rate has each recipe of fine-tuning? Chosen on the identification split.

    python benchmarks/sft_rates.py                  # writes reports/arms/rates.md
    python benchmarks/sft_rates.py --epochs 1 --epochs 3 --recipe lora --out out/curve.md
    python benchmarks/sft_rates.py --model lab-smol --suite smol --target law --target physics
        --experts-implementation eager --scale 0.4 --every 2 --batch 16 --epochs 3
        --out reports/smol/rates.md

One rule for all recipes: of a grid of rates, the one with the highest mean log-probability of the
right option on the targets' items of the identification split, after training on their tuning
items; of equal ones the lowest. A suite without such items has text documents there: then it is the
log-probability of the targets' documents, per character. The test split is not read. Experts of
`esft` are those that a run would choose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from dsmoe_eval.tasks.identification import identification_text
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
RANK, ALPHA = 8, 16.0
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Bench:
    """The model and the splits that rates are tried on.

    Attributes:
        checks: the targets' items of the identification split, or the texts of their documents.
    """

    engine: TransformersEngine
    lm: EngineLM
    counts: RoutingCounts
    tuning: dict[str, LoadedTask]
    checks: dict[str, LoadedTask | list[str]]


@dataclass(frozen=True)
class Trial:
    """A training at one rate, over the targets: means of the outcomes, and the gain in score."""

    recipe: str
    epochs: int
    rate: float
    score: float
    gold: float
    gain: float


def open_bench(
    model: str, suite_name: str, targets: tuple[str, ...], root: Path, computed: str | None = None
) -> Bench:
    """Load model and splits, and count the routing by which experts are chosen."""
    suite = load_suite(suite_name)
    engine = TransformersEngine(load_model(model, "cpu", computed))
    splits = load_splits(suite, None, (), targets, answered_text=True)
    spec = IdentificationSpec.by([get_method("esft-gate")], Identification(), {})
    text = identification_text(suite_name).tasks
    counts = count_domains(engine, text, spec, root, lambda _: None)
    tasks = {suite.target_task(target).name: target for target in targets}

    def of(part: str) -> dict[str, LoadedTask]:
        return {tasks[name]: task for name, task in splits[part].items() if name in tasks}

    checks: dict[str, LoadedTask | list[str]] = {**of("identification")}
    for target in targets:
        documents = [one for one in text.values() if one.card.domain == target]
        texts = [item.question for one in documents for item in one.items]
        checks.setdefault(target, texts)
    return Bench(engine, engine.language_model(), counts, of("tuning"), checks)


def values(bench: Bench, target: str) -> tuple[float, float]:
    """Return the model's mean score and gold_logprob on a target's identification items.

    Of documents: no score, and the log-probability of a character.
    """
    check = bench.checks[target]
    if isinstance(check, list):
        total = sum(bench.lm.rolling_log_likelihoods(check))
        return float("nan"), total / sum(map(len, check))
    both = [outcome_values(bench.lm, [check], name) for name in ("score", "gold_logprob")]
    score, gold = (float(np.mean(one[check.card.name])) for one in both)
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


def trials(
    bench: Bench, grids: Mapping[str, Sequence[float]], epochs: Iterable[int], batch: int
) -> Iterator[Trial]:
    """Yield each recipe at each budget and rate, after the model as it was."""
    base = {target: values(bench, target) for target in bench.checks}
    untrained, gold = (float(np.mean([one[at] for one in base.values()])) for at in (0, 1))
    yield Trial("base", 0, 0.0, untrained, gold, 0.0)
    for budget in epochs:
        for recipe, rates in grids.items():
            variant = get_variant(f"sft-{recipe}")
            for rate in rates:
                own = Sft(rank=RANK, lora_alpha=ALPHA, learning_rate=rate, epochs=budget,
                          batch_size=batch)  # fmt: skip
                found = {t: trained(bench, variant, own, t) for t in bench.checks}
                score, gold = (float(np.mean([one[at] for one in found.values()])) for at in (0, 1))
                yield Trial(recipe, budget, rate, score, gold, score - untrained)


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
    by_text = any(np.isnan(one.score) for one in found)
    looked_at = "documents" if by_text else "items"
    measure = "log-probability of a character" if by_text else "log-probability of the right option"
    lines = [
        "# Learning rates of the fine-tuning recipes",
        "",
        f"`python benchmarks/sft_rates.py`: {model}, targets {', '.join(targets)}, trained on "
        f"their tuning items, looked at on their {looked_at} of the identification split. One "
        f"rule: the highest mean {measure}; of equal ones the lowest rate. Bold: chosen. The test "
        "split was not read.",
        "",
        f"| recipe | epochs | rate | {measure}, nats |" + ("" if by_text else " score | gain |"),
        "|---|---:|---:|---:|" + ("" if by_text else "---:|---:|"),
    ]
    for one in found:
        mark = "**" if one in best and one.epochs else ""
        score = "" if by_text else f" {one.score:.1%} | {100 * one.gain:+.1f} pp |"
        lines.append(
            f"| {one.recipe} | {one.epochs} | {mark}{one.rate:g}{mark} | {one.gold:.4f} |{score}"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--model", default="lab-poly", show_default=True)
@click.option("--suite", default="lab", show_default=True)
@click.option("--target", "targets", multiple=True, default=("math", "biology"), show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=tuple(RATES), show_default=True)
@click.option("--epochs", multiple=True, type=int, default=(10,), show_default=True)
@click.option("--scale", default=1.0, show_default=True, help="Multiplies all rates of the grid.")
@click.option("--every", default=1, show_default=True, help="Takes each so many-th of the rates.")
@click.option("--experts-implementation", "computed", help="How transformers computes experts.")
@click.option("--batch", default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/arms/rates.md"))
def main(
    model: str,
    suite: str,
    targets: tuple[str, ...],
    recipes: tuple[str, ...],
    epochs: tuple[int, ...],
    scale: float,
    every: int,
    computed: str | None,
    batch: int,
    out: Path,
) -> None:
    """Try the rates and write the page."""
    with tempfile.TemporaryDirectory() as root:
        bench = open_bench(model, suite, targets, Path(root), computed)
        found = []
        grids = {name: [scale * one for one in RATES[name][::every]] for name in recipes}
        for one in trials(bench, grids, epochs, batch):
            found.append(one)
            click.echo(f"{one.recipe} x{one.epochs} {one.rate:g}: {one.gold:.4f} {one.score:.3f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, written(found, model, targets))
    for one in chosen(one for one in found if one.epochs).values():
        click.echo(f"chosen: {one.recipe} x{one.epochs} {one.rate:g}")


if __name__ == "__main__":
    main()

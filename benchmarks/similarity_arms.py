"""How alike are the experts of the fine-tuned arms of a run, beside base's?

    python benchmarks/similarity_arms.py out/similarity  # writes reports/simsmoe/arms/experts.md

Debiased CKA of all pairs of experts of a layer, linear kernel, on the same distinct tokens of the
suite's identification split; the null has each output's tokens in another order. Answers are not
read. Arms with the same weights bit by bit are computed once.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from dsmoe_eval.experts import ExpertSimilarity, expert_similarity
from dsmoe_eval.experts.similarity import summarise
from dsmoe_eval.files import write_text
from dsmoe_eval.models import load_model
from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.training import Training
from dsmoe_eval.studies.similarity import read_texts
from dsmoe_eval.variants.recipes import fine_tuned


@dataclass(frozen=True)
class Alike:
    """Means over layers, of a model's experts and of the null."""

    variant: str
    target: str
    layers: tuple[float, ...]
    null: float
    alike: float
    rank: float


def alike(variant: str, target: str, found: ExpertSimilarity) -> Alike:
    """Summarise a model's similarity over its layers."""
    own = [summarise(layer.experts["linear"]) for layer in found.layers]
    null = [summarise(layer.shuffled["linear"])["mean"] for layer in found.layers]
    return Alike(
        variant,
        target,
        tuple(one["mean"] for one in own),
        float(np.mean(null)),
        float(np.mean([one["alike"] for one in own])),
        float(np.mean([one["effective_rank"] for one in own])),
    )


def written(rows: list[Alike], run: Path, tokens: int) -> str:
    """Return the page."""
    base = rows[0]
    layers = range(len(base.layers))
    lines = [
        "# How alike the experts of the fine-tuned arms are",
        "",
        f"`python benchmarks/similarity_arms.py {run}`: mean debiased CKA (linear) of all pairs of "
        f"experts, each run on the same {tokens} distinct tokens of the identification split. "
        "Null: tokens shuffled. Above 0.5: share of pairs, mean of layers, as the effective rank.",
        "",
        f"| arm | target | {' | '.join(f'layer {at}' for at in layers)} | mean | less base's | "
        "null | above 0.5 | effective rank |",
        "|---|---|" + "---:|" * (len(layers) + 5),
    ]
    for one in rows:
        mean = float(np.mean(one.layers))
        change = mean - float(np.mean(base.layers))
        lines.append(
            f"| {one.variant} | {one.target} | {' | '.join(f'{x:.3f}' for x in one.layers)} | "
            f"{mean:.4f} | {change:+.4f} | {one.null:.3f} | {one.alike:.1%} | {one.rank:.1f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="lab-poly", show_default=True)
@click.option("--suite", default="lab", show_default=True)
@click.option("--tokens", default=512, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("reports/simsmoe/arms/experts.md")
)
def main(run: Path, model: str, suite: str, tokens: int, seed: int, out: Path) -> None:
    """Compare the arms' experts and write the page."""
    finished, folder = read_finished(run), RunFolder(run)
    loaded = load_model(model, "cpu")
    texts = loaded.tokenizer(list(read_texts(suite).texts))["input_ids"]
    rows, known = [], {}
    arms = [arm for arm in finished.result.arms if isinstance(arm.settings, Training)]
    for arm in (None, *arms):
        names = ("base", "-") if arm is None else (arm.variant, arm.target)
        weights = None if arm is None else arm.settings.weights
        if weights not in known:
            with nullcontext() if arm is None else fine_tuned(loaded.model, folder.adapter(*names)):
                known[weights] = expert_similarity(loaded.model, texts, tokens, seed)
        rows.append(alike(*names, known[weights]))
        click.echo(f"{names[0]} {names[1]}: {np.mean(rows[-1].layers):.4f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, written(rows, run, tokens))


if __name__ == "__main__":
    main()

"""What influence costs, beside the pass of identification with token saliency.

    python benchmarks/speed/influence.py [--model lab-smol] [--items 16] [--rounds 3] [--json]

All passes take the same model and texts in turn, one round after the other, and write to disk; a
ratio is the median over rounds. Without --model it is the random model of 41M parameters, whose
router weights are drawn wide, so that its selections differ. The step of the exact form is half of
each layer's logit spread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from quiz import QUIZ_MODEL, make_items, make_tokenizer

from dsmoe_eval.experts import (
    Form,
    OutcomeItem,
    ScoredText,
    count_routing,
    encode_documents,
    measure_influence,
    observe,
)
from dsmoe_eval.experts.influence import UNIT
from dsmoe_eval.models import load_model
from dsmoe_eval.steering import find_routers

Pass = Callable[[Path], object]


def random_model(layers: int) -> tuple[Any, Any]:
    """The model of 41M parameters and its tokenizer."""
    from transformers import AutoModelForCausalLM, OlmoeConfig

    torch.manual_seed(0)
    config = OlmoeConfig(**QUIZ_MODEL | {"num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for router in find_routers(model):
            router.weight.normal_(std=0.1)
    return model, make_tokenizer(config.vocab_size)


def passes(model: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, Pass]:
    """Each pass by name; the first is that to which the others are compared."""
    documents = encode_documents(tokenizer, {"all": list(texts)})
    items = [
        OutcomeItem("all", (ScoredText(one.tokens, 1),), scales=(1 / (len(one.tokens) - 1),))
        for one in documents
    ]
    with TemporaryDirectory() as folder:
        seen = observe(model, documents, Path(folder), saliency_model=None, spread=True)
        steps = tuple(UNIT * sigma for sigma in count_routing(seen).sigmas().values())
    forms = {"gradient form": Form(), "routing-exact form": Form(steps=steps)}
    made: dict[str, Pass] = {
        "saliency": lambda root: observe(model, documents, root, saliency_model=model, spread=True)
    }
    for name, form in forms.items():
        made[name] = lambda root, form=form: measure_influence(model, items, root, form=form)
    return made


def measure(
    model: Any, tokenizer: Any, texts: Sequence[str], rounds: int
) -> list[dict[str, float | str]]:
    """Seconds of each pass, the median over rounds, and the median ratio to the first."""
    arms = passes(model, tokenizer, texts)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for count in range(rounds + 1):
        for name, run in arms.items():
            with TemporaryDirectory() as folder:
                begin = time.process_time()
                run(Path(folder))
                if count:  # the first is to warm up
                    seconds[name].append(time.process_time() - begin)
    (first, *_) = seconds.values()
    return [
        {
            "pass": name,
            "cpu_seconds": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, first, strict=True)),
        }
        for name, values in seconds.items()
    ]


@click.command()
@click.option("--model", help="A model instead of the random one.")
@click.option("--text", type=click.Path(path_type=Path), help="With --model: JSONL with `text`.")
@click.option("--items", default=16, help="The number of texts.")
@click.option("--rounds", default=3)
@click.option("--json", "as_json", is_flag=True)
def main(model: str | None, text: Path | None, items: int, rounds: int, as_json: bool) -> None:
    """Print a table, or JSON."""
    texts = [one.text() for one in make_items(items, QUIZ_MODEL["vocab_size"])]
    if text is not None:
        lines = text.read_text(encoding="utf-8").splitlines()[:items]
        texts = [json.loads(line)["text"] for line in lines]
    if model is None:
        loaded, tokenizer = random_model(QUIZ_MODEL["num_hidden_layers"])
    else:
        one = load_model(model, "cpu")
        loaded, tokenizer = one.model, one.tokenizer
    rows = measure(loaded, tokenizer, texts, rounds)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("| pass | CPU seconds | of saliency's |\n|---|---:|---:|")
    for row in rows:
        click.echo(f"| {row['pass']} | {row['cpu_seconds']:.2f} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()

"""Does the influence of neurons foretell what scaling them does? On `lab-smol-dense`.

    python benchmarks/foretold_neurons.py

The documents of each domain are parted in two halves, A and B. 461 neurons (1 %) are chosen by
their influence on A, or at random, and multiplied by 1.25 in the weights themselves. Foretold: the
sum of their influence on a half, times 0.25. Measured: the change of the log-likelihood of its
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

import click
import numpy as np
import torch

from dsmoe_eval.experts.influence import Form, Influence, ScoredText
from dsmoe_eval.models import load_model
from dsmoe_eval.steering import Sites, find_sites
from dsmoe_eval.tasks.identification import domain_texts, identification_text

NEURONS = Sites(kind="neurons")
CHOSEN, STRENGTH = 461, 0.25


def slopes(influence: Influence, texts: Sequence[ScoredText]) -> np.ndarray:
    """Return the influence of every neuron on the texts together, [layers, neurons]."""
    return np.sum([influence([text])[1][0].double().numpy() for text in texts], axis=0)


@torch.no_grad()
def likelihood(model: torch.nn.Module, texts: Sequence[ScoredText]) -> float:
    """Return the log-likelihood of the texts' tokens, each after those before it."""
    total = 0.0
    for text in texts:
        ids = torch.tensor([text.tokens])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
        total += float(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
    return total


@contextmanager
def scaled(model: torch.nn.Module, chosen: np.ndarray):
    """Multiply the chosen neurons, [layers, neurons] of truth, by 1 + STRENGTH in the weights."""
    kept = [(site, site.weight.detach().clone()) for site in find_sites(model, NEURONS)]
    with torch.no_grad():
        for (site, weight), row in zip(kept, chosen, strict=True):
            factors = 1 + STRENGTH * torch.from_numpy(row).to(weight)
            site.weight.copy_(weight * factors)
    yield
    with torch.no_grad():
        for site, weight in kept:
            site.weight.copy_(weight)


def largest(values: np.ndarray) -> np.ndarray:
    """Return which CHOSEN values are the largest."""
    edge = np.sort(values.flatten())[-CHOSEN]
    return values >= edge


@click.command()
@click.option("--domain", "domains", multiple=True, default=("law", "physics"), show_default=True)
def main(domains: tuple[str, ...]) -> None:
    """Print a row per domain, choice and half."""
    loaded = load_model("lab-smol-dense", "cpu", sites=NEURONS)
    model, every = (
        loaded.model.requires_grad_(False),
        domain_texts(identification_text("smol").tasks),
    )
    influence, draw = Influence(model, Form(), NEURONS), np.random.default_rng(0)
    click.echo("| domain | neurons | half | foretold, nats per token | measured |")
    click.echo("|---|---|---|---:|---:|")
    for domain in domains:
        texts = [ScoredText(tuple(loaded.tokenizer(one)["input_ids"]), 1) for one in every[domain]]
        halves = {"A": texts[::2], "B": texts[1::2]}
        slope = {name: slopes(influence, half) for name, half in halves.items()}
        choices = {
            "influence on A": largest(slope["A"]),
            "random": largest(draw.random(slope["A"].shape)),
        }
        base = {name: likelihood(model, half) for name, half in halves.items()}
        for choice, chosen in choices.items():
            with scaled(model, chosen):
                after = {name: likelihood(model, half) for name, half in halves.items()}
            for name, half in halves.items():
                tokens = sum(text.scored for text in half)
                foretold = STRENGTH * float(slope[name][chosen].sum()) / tokens
                measured = (after[name] - base[name]) / tokens
                click.echo(f"| {domain} | {choice} | {name} | {foretold:+.4f} | {measured:+.4f} |")


if __name__ == "__main__":
    main()

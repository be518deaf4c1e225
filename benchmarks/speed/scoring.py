"""What scoring options costs in time: ours, lm-eval's `hf` model and one forward for each option.

    python benchmarks/speed/scoring.py [--items 40] [--rounds 5] [--shape gpt-oss] [--json]
    python benchmarks/speed/scoring.py --device cuda --cards olmoe-1b-7b

The model is random with OLMoE's or gpt-oss's shape, or with --cards of a card's real size, in
bfloat16 on a GPU. The items are questions with ten options. All passes answer
the same items in turn, one round after the other, from texts to log-likelihoods; a ratio is the
median over rounds with its quartiles. lm-eval's `hf` model runs with the best of a few batch sizes,
found beforehand for each kind of item. The first call of a new engine is a pass of its own; it
compares sharing on the model, and its proof on a small model (timed apart) is known. On a GPU the
share of time that it computes is that of its kernels, profiled once, in an unprofiled call's time,
and log-likelihoods differ by rounding, which is reported. The published evaluation is
re-implemented from a description of it: each option by itself, one text in a batch, all logits of
all tokens through the softmax. The slow passes are timed over fewer items, and their
log-likelihoods must be ours.

The floor is the arithmetic alone: 2 operations for each weight that is active for a token, over the
tokens that any pass has to compute once (a header for all items, a question for all its options),
and for the head over the places whose next token is asked for, at the rate of square matrix
products, which each round measures anew. Attention scores are left out.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import models
import torch
from identify import SQUARE, Quartiles, product_rate
from quiz import LETTERS, QUIZ_MODEL, make_items
from scoring_arms import (
    KINDS,
    SHAPES,
    Answers,
    Arm,
    Kind,
    Settings,
    Subject,
    busy_share,
    make_arms,
    make_subject,
    needed,
    prove,
    requests_of,
)

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One pass on one kind of item.

    Attributes:
        name: of the pass.
        items_s: items a second.
        times_floor: its time over the floor's.
        ours: our items a second over its.
        difference: the largest, of a log-likelihood from ours.
    """

    name: str
    items_s: Quartiles
    times_floor: Quartiles
    ours: Quartiles
    difference: float


@dataclass(frozen=True)
class Figures:
    """One kind of item.

    Attributes:
        kind: its name.
        text_tokens: tokens an item, of all options' texts in full.
        floor_tokens: those that have to be computed once.
        floor_places: and those whose next token is asked for.
        floor_items_s: items a second.
        rows: of the passes.
        proof_s: seconds of the proof on a small model, which a machine needs once.
        busy: share of our time in which the GPU computes; None on a CPU.
    """

    kind: str
    text_tokens: float
    floor_tokens: float
    floor_places: float
    floor_items_s: Quartiles
    rows: list[Row]
    proof_s: float
    busy: float | None


@dataclass(frozen=True)
class Report:
    """Everything that is measured."""

    name: str
    device: str
    dtype: str
    threads: int
    weights: int
    active_weights: int
    gflop_s: Quartiles
    figures: list[Figures]


def race(
    arms: Sequence[Arm], rounds: int, rate: Callable[[], float]
) -> tuple[list[list[float]], list[float], list[Answers]]:
    """Seconds an item by arm and round, GFLOP/s by round, and answers; the order alternates."""
    seconds: list[list[float]] = [[] for _ in arms]
    rates, answers = [], [Answers() for _ in arms]
    for turn in range(rounds):
        rates.append(rate())
        for index in range(len(arms))[:: -1 if turn % 2 else 1]:
            arm = arms[index]
            start = time.perf_counter()
            answers[index] = arm.work(arm.requests)
            taken = time.perf_counter() - start
            seconds[index].append(taken * len(LETTERS) / len(arm.requests))
    return seconds, rates, answers


def measure_kind(subject: Subject, kind: Kind, settings: Settings) -> tuple[Figures, list[float]]:
    """All passes on one kind of item, and the rates of square products.

    Raises:
        ValueError: the passes' log-likelihoods are not the same.
    """
    items = make_items(settings.shots + settings.items, QUIZ_MODEL["vocab_size"])
    requests = requests_of(items, kind, settings.shots)
    whole, tokens, places = needed(subject.tokenizer, requests)
    flop = 2 * (tokens * subject.size.active_body + places * subject.size.head) / settings.items
    proof_s = prove(subject)
    arms = make_arms(subject, requests, settings)
    seconds, rates, answers = race(arms, settings.rounds, lambda: square_rate(subject.model))
    floors = [flop / rate / 1e9 for rate in rates]
    rows = [
        Row(
            name=arm.name,
            items_s=Quartiles.of([1 / value for value in taken]),
            times_floor=_ratio(taken, floors),
            ours=_ratio(taken, seconds[0]),
            difference=_difference(answers[0], found),
        )
        for arm, taken, found in zip(arms, seconds, answers, strict=True)
    ]
    for row in rows:
        if row.difference > TOLERANCE and subject.model.dtype == torch.float32:
            raise ValueError(f"{kind.name}: {row.name} is {row.difference:.2g} off ours")
    return Figures(
        kind=kind.name,
        text_tokens=whole / settings.items,
        floor_tokens=tokens / settings.items,
        floor_places=places / settings.items,
        floor_items_s=Quartiles.of([1 / floor for floor in floors]),
        rows=rows,
        proof_s=proof_s,
        busy=busy_share(arms[0], seconds[0]),
    ), rates


def square_rate(model: Any) -> float:
    """GFLOP/s of a square product on the model's device, in its dtype."""
    if model.device.type == "cpu":
        return product_rate(SQUARE, SQUARE, SQUARE)
    return models.machine(model.device.type, model.dtype)[0]


def measure(settings: Settings, card: str | None = None) -> Report:
    """The whole benchmark of one model; on a GPU of few-shot items only."""
    subject = make_subject(settings, card)
    kinds = KINDS if settings.device == "cpu" else KINDS[:2]
    with tempfile.TemporaryDirectory() as kept:
        os.environ["XDG_CACHE_HOME"] = kept
        found = [measure_kind(subject, kind, settings) for kind in kinds]
    return Report(
        name=card or settings.shape,
        device=settings.device,
        dtype=str(subject.model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        weights=sum(parameter.numel() for parameter in subject.model.parameters()),
        active_weights=subject.size.active_body + subject.size.head,
        gflop_s=Quartiles.of([rate for _, rates in found for rate in rates]),
        figures=[figures for figures, _ in found],
    )


def _ratio(over: Sequence[float], under: Sequence[float]) -> Quartiles:
    return Quartiles.of([a / b for a, b in zip(over, under, strict=True)])


def _difference(ours: Answers, theirs: Answers) -> float:
    return max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=False))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        f"{report.name}: {report.weights / 1e6:.1f}M weights, "
        f"{report.active_weights / 1e6:.2f}M active, {report.dtype} on {report.device}, "
        f"{report.threads} threads; square products {report.gflop_s} GFLOP/s; "
        "median over rounds [quartiles]"
    ]
    for figures in report.figures:
        lines += [
            "",
            f"{figures.kind}: {figures.text_tokens:.0f} tokens an item in full, of which "
            f"{figures.floor_tokens:.0f} have to be computed, and {figures.floor_places:.0f} "
            f"through the head; proof on a small model {figures.proof_s:.1f} s"
            + (
                "" if figures.busy is None else f"; the GPU computes {figures.busy:.0%} of the time"
            ),
            "",
            "| pass | items/s | x the floor's time | ours is x times as fast | difference |",
            "|---|---|---|---|---|",
            f"| arithmetic floor | {figures.floor_items_s} | 1 | | |",
        ]
        lines += [
            f"| {row.name} | {row.items_s} | {row.times_floor} | {row.ours} | "
            f"{row.difference:.1e} |"
            for row in figures.rows
        ]
    return "\n".join(lines)


@click.command()
@click.option("--items", type=click.IntRange(2), help="By default 40, on a GPU 160.")
@click.option("--slow-items", type=click.IntRange(1), default=4, help="Of the slow passes.")
@click.option("--rounds", type=click.IntRange(1), help="By default 5, on a GPU 3.")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="olmoe", help="Of a small model.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--cards", multiple=True, help="Model cards by name; the weights are random.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def main(as_json: bool, cards: tuple[str, ...], **given: Any) -> None:
    """Time the scoring of options against lm-eval's `hf` model and against its floor."""
    usual = {"items": 40, "rounds": 5} if given["device"] == "cpu" else {"items": 160, "rounds": 3}
    settings = Settings(**usual | {name: value for name, value in given.items() if value})
    for card in cards or (None,):
        report = measure(settings, card)
        click.echo(json.dumps(asdict(report), indent=1) if as_json else markdown(report))
        if settings.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

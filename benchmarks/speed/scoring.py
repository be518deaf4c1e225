"""What scoring options costs in time: ours, lm-eval's `hf` model and one forward for each option.

    python benchmarks/speed/scoring.py [--items 40] [--rounds 5] [--json]

The model is random with OLMoE's shape, the items are questions with ten options. All passes answer
the same items in turn, one round after the other, from texts to log-likelihoods; a ratio is the
median over rounds with its quartiles. lm-eval's `hf` model runs with the best of a few batch sizes,
found beforehand for each kind of item. The published evaluation is re-implemented from a
description of it: each option by itself, one text in a batch, all logits of all tokens through the
softmax. The slow passes are timed over fewer items, and their log-likelihoods must be ours.

The floor is the arithmetic alone: 2 operations for each weight that is active for a token, over the
tokens that any pass has to compute once (a header for all items, a question for all its options),
and for the head over the places whose next token is asked for, at the rate of square matrix
products, which each round measures anew. Attention scores are left out.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import models
import torch
from identify import SQUARE, Quartiles, product_rate
from lm_eval.api.instance import Instance
from quiz import LETTERS, QUIZ_MODEL, Item, make_items, make_tokenizer

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.models.loading import LoadedModel, identify_model

SHOTS = 5
BATCH_TOKENS = 8192
BATCH_SIZES = (1, 4, 16)
TOLERANCE = 1e-4
Answers = list[tuple[float, bool]]


@dataclass(frozen=True)
class Settings:
    """What the user asked for; `slow_items` are those that the slow passes answer."""

    items: int
    slow_items: int
    rounds: int
    shots: int = SHOTS
    layers: int = QUIZ_MODEL["num_hidden_layers"]


@dataclass(frozen=True)
class Kind:
    """How an item is asked: with examples or not, its options' letters or their texts."""

    name: str
    few_shot: bool
    letters: bool


KINDS = (
    Kind("options of several tokens, few-shot", few_shot=True, letters=False),
    Kind("single letters, few-shot", few_shot=True, letters=True),
    Kind("options of several tokens, zero-shot", few_shot=False, letters=False),
    Kind("single letters, zero-shot", few_shot=False, letters=True),
)


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
    """

    kind: str
    text_tokens: float
    floor_tokens: float
    floor_places: float
    floor_items_s: Quartiles
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """Everything that is measured."""

    threads: int
    weights: int
    active_weights: int
    gflop_s: Quartiles
    figures: list[Figures]


def requests_of(items: Sequence[Item], kind: Kind, shots: int) -> list[Instance]:
    """Ten requests an item; the first `shots` items are the examples."""

    def prompt(item: Item) -> str:
        return item.text() if kind.letters else f"{item.question}\nAnswer:"

    def options(item: Item) -> Sequence[str]:
        return LETTERS if kind.letters else item.options

    examples = "".join(
        f"{prompt(item)} {options(item)[number % len(LETTERS)]}\n\n"
        for number, item in enumerate(items[:shots])
    )
    return [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=((examples if kind.few_shot else "") + prompt(item), f" {option}"),
            idx=number,
        )
        for item in items[shots:]
        for number, option in enumerate(options(item))
    ]


def published(model: Any, tokenizer: Any, requests: Sequence[Instance]) -> Answers:
    """The published evaluation: every option by itself, and all of its logits."""
    answers = []
    for request in requests:
        context, continuation = request.args
        start = len(tokenizer(context).input_ids)
        ids = tokenizer(context + continuation, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        likely = logits[0, :-1].log_softmax(-1)
        targets = ids[0, 1:]
        values = likely.gather(1, targets[:, None])[start - 1 :]
        hits = likely.argmax(-1)[start - 1 :] == targets[start - 1 :]
        answers.append((float(values.sum()), bool(hits.all())))
    return answers


def make_peer(model: Any, tokenizer: Any, requests: Sequence[Instance]) -> tuple[Any, int]:
    """lm-eval's `hf` model with the best of a few batch sizes, over two items."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = []
    for size in BATCH_SIZES:
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, device="cpu")
        peer.loglikelihood(requests[:1], disable_tqdm=True)
        start = time.perf_counter()
        peer.loglikelihood(requests[: 2 * len(LETTERS)], disable_tqdm=True)
        found.append((time.perf_counter() - start, size, peer))
    _, size, peer = min(found, key=lambda one: one[:2])
    return peer, size


def needed(tokenizer: Any, requests: Sequence[Instance]) -> tuple[int, int, int]:
    """Tokens of all texts, and tokens and places that have to be computed once."""
    nodes, places, whole = set(), set(), 0
    for request in requests:
        context, continuation = request.args
        start = len(tokenizer(context).input_ids)
        ids = tuple(tokenizer(context + continuation).input_ids)
        whole += len(ids) - 1
        beginnings = [hash(ids[:end]) for end in range(1, len(ids))]
        nodes.update(beginnings)
        places.update(beginnings[start - 1 :])
    return whole, len(nodes), len(places)


@dataclass(frozen=True)
class Subject:
    """What all passes work on."""

    model: Any
    tokenizer: Any
    size: models.Size


@dataclass(frozen=True)
class Arm:
    """A pass and what it answers; `work` is timed."""

    name: str
    requests: Sequence[Instance]
    work: Callable[[Sequence[Instance]], Answers]


def make_subject(settings: Settings) -> Subject:
    """Model and tokenizer; the padding token ends texts too, since lm-eval asks for an end."""
    from transformers import AutoConfig

    config = AutoConfig.for_model("olmoe", **QUIZ_MODEL | {"num_hidden_layers": settings.layers})
    built, model = models.build(config, "random", "cpu")
    tokenizer = make_tokenizer(QUIZ_MODEL["vocab_size"])
    tokenizer.eos_token = tokenizer.pad_token
    return Subject(model, tokenizer, built.size)


def make_arms(subject: Subject, requests: list[Instance], settings: Settings) -> list[Arm]:
    """Ours first. Our engine's own check of the model is made here, once, as in a run."""
    model, tokenizer = subject.model, subject.tokenizer
    slow = requests[: settings.slow_items * len(LETTERS)]
    peer, batch = make_peer(model, tokenizer, requests)
    loaded = LoadedModel(model, tokenizer, identify_model("random", "0", model))
    engine = TransformersLM(loaded, BATCH_TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.loglikelihood(requests)

    def ours(asked: Sequence[Instance]) -> Answers:
        engine._encoder.forget()  # tokenised and planned anew in each round, as the others do
        engine._arranged.cache_clear()
        return engine.loglikelihood(asked)

    def theirs(asked: Sequence[Instance]) -> Answers:
        answers: Answers = peer.loglikelihood(asked, disable_tqdm=True)
        return answers

    return [
        Arm("dsmoe-eval", requests, ours),
        Arm(f"lm-eval `hf`, batch size {batch}", slow, theirs),
        Arm("one forward an option", slow, lambda asked: published(model, tokenizer, asked)),
    ]


def race(arms: Sequence[Arm], rounds: int) -> tuple[list[list[float]], list[float], list[Answers]]:
    """Seconds an item by arm and round, GFLOP/s by round, and answers; the order alternates."""
    seconds: list[list[float]] = [[] for _ in arms]
    rates, answers = [], [Answers() for _ in arms]
    for turn in range(rounds):
        rates.append(product_rate(SQUARE, SQUARE, SQUARE))
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
    arms = make_arms(subject, requests, settings)
    seconds, rates, answers = race(arms, settings.rounds)
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
        if row.difference > TOLERANCE:
            raise ValueError(f"{kind.name}: {row.name} is {row.difference:.2g} off ours")
    return Figures(
        kind=kind.name,
        text_tokens=whole / settings.items,
        floor_tokens=tokens / settings.items,
        floor_places=places / settings.items,
        floor_items_s=Quartiles.of([1 / floor for floor in floors]),
        rows=rows,
    ), rates


def measure(settings: Settings) -> Report:
    """The whole benchmark."""
    subject = make_subject(settings)
    found = [measure_kind(subject, kind, settings) for kind in KINDS]
    return Report(
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
        f"{report.weights / 1e6:.1f}M weights, {report.active_weights / 1e6:.2f}M active, "
        f"{report.threads} threads, float32; square products {report.gflop_s} GFLOP/s; "
        "median over rounds [quartiles]"
    ]
    for figures in report.figures:
        lines += [
            "",
            f"{figures.kind}: {figures.text_tokens:.0f} tokens an item in full, of which "
            f"{figures.floor_tokens:.0f} have to be computed, and {figures.floor_places:.0f} "
            "through the head",
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
@click.option("--items", type=click.IntRange(2), default=40)
@click.option("--slow-items", type=click.IntRange(1), default=4, help="Of the slow passes.")
@click.option("--rounds", type=click.IntRange(1), default=5)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def main(as_json: bool, **given: Any) -> None:
    """Time the scoring of options against lm-eval's `hf` model and against its floor."""
    report = measure(Settings(**given))
    click.echo(json.dumps(asdict(report), indent=1) if as_json else markdown(report))


if __name__ == "__main__":
    main()

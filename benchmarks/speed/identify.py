"""What identification costs in time: ours, the published pipeline and the arithmetic floor.

    python benchmarks/speed/identify.py [--published CHECKOUT] [--items 60] [--rounds 5] [--json]
    python benchmarks/speed/identify.py --device cuda --cards NAME [--cards NAME]

Identification is the pass that labels every token of a text as salient or common and counts which
experts ran on it. The model is random with OLMoE's shape, the texts are ten-option questions. All
passes take the same model and items in turn, one round after the other, and a ratio is the median
over rounds with its quartiles. The floor is the arithmetic alone: 4 operations for each weight that
is active for a token (2 forward, 2 for the gradient by its input; attention scores left out) at the
rate of square matrix products, which each round measures anew.

The published code has no licence and is not part of this project. `--published` names a checkout of
github.com/giangdip2410/Domain-specific-Experts and runs it as it is; without it, our own
re-implementation of the procedure stands in for it, which takes about as long.

With --cards the models have real sizes, made on the device; memory is the allocator's peak on a
GPU, else counted by live tensors.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import models
import torch
from identify_arms import Arm, Ours, Procedure, Published, Subject, agreement
from identify_cards import measure_all
from identify_profile import shares
from quiz import QUIZ_MODEL, make_items, make_tokenizer

from dsmoe_eval.experts import count_routing

OPERATIONS = 4  # for each active weight and token
SQUARE, PRODUCTS = 1024, 8
MEGABYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    published: Path | None
    items: int
    rounds: int
    layers: int = QUIZ_MODEL["num_hidden_layers"]


@dataclass(frozen=True)
class Quartiles:
    """Over the rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Of one value too."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Row:
    """One pass.

    Attributes:
        name: of the pass.
        seconds: for an item.
        times_floor: seconds over the floor's.
        speed_up: the peer's seconds over this pass's.
        peak_mb: most memory that a process held in which the pass ran alone; None if not measured.
    """

    name: str
    seconds: Quartiles
    times_floor: Quartiles
    speed_up: Quartiles
    peak_mb: float | None


@dataclass(frozen=True)
class Report:
    """Everything that is measured; shares are fractions."""

    threads: int
    tokens_an_item: float
    weights: int
    active_weights: int
    gflop_s: Quartiles
    product_gflop_s: dict[str, float]
    floor_seconds: Quartiles
    rows: list[Row]
    base_mb: float | None
    agreement: dict[str, float]
    shares: dict[str, float]


def make_subject(settings: Settings) -> tuple[Subject, models.Size]:
    """Model, tokenizer and items, and what a token costs."""
    from transformers import AutoConfig

    config = AutoConfig.for_model("olmoe", **QUIZ_MODEL | {"num_hidden_layers": settings.layers})
    built, model = models.build(config, "random", "cpu")
    vocabulary = QUIZ_MODEL["vocab_size"]
    items = make_items(settings.items, vocabulary)
    return Subject(model, make_tokenizer(vocabulary), items), built.size


def make_arms(subject: Subject, settings: Settings) -> tuple[Ours, Arm]:
    """Ours and the peer."""
    if settings.published is None:
        return Ours(subject), Procedure(subject)
    return Ours(subject), Published(subject, settings.published)


def product_rate(rows: int, inner: int, columns: int) -> float:
    """GFLOP/s of `[rows, inner] @ [columns, inner].T` in float32, the best of a few."""
    left, right = torch.randn(rows, inner), torch.randn(columns, inner)
    out = torch.empty(rows, columns)
    right = right.t()
    best = min(models.timed(lambda: torch.mm(left, right, out=out), "cpu") for _ in range(PRODUCTS))
    return 2 * rows * inner * columns / best / 1e9


def model_products(subject: Subject) -> dict[str, float]:
    """GFLOP/s of products that the model makes, for 1,024 tokens."""
    config, tokens = subject.model.config, 1024
    hidden, inner = config.hidden_size, config.intermediate_size
    per_expert = tokens * config.num_experts_per_tok // config.num_experts
    shapes = {
        "attention projection": (tokens, hidden, hidden),
        "an expert's gate and up": (per_expert, hidden, 2 * inner),
        "an expert's down": (per_expert, inner, hidden),
        "LM head": (tokens, hidden, config.vocab_size),
    }
    return {
        f"{name} {rows}x{inner}x{columns}": product_rate(rows, inner, columns)
        for name, (rows, inner, columns) in shapes.items()
    }


def race(arms: Sequence[Arm], rounds: int) -> tuple[list[list[float]], list[float], list[Any]]:
    """Seconds by arm and round, GFLOP/s by round and the arms' results; the order alternates."""
    results = [arm.run() for arm in arms]  # warms up
    seconds: list[list[float]] = [[] for _ in arms]
    rates = []
    for turn in range(rounds):
        rates.append(product_rate(SQUARE, SQUARE, SQUARE))
        for index in range(len(arms))[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            results[index] = arms[index].run()
            seconds[index].append(time.perf_counter() - start)
    return seconds, rates, results


def peak_mb(settings: Settings, arm: int | None) -> float | None:
    """Peak memory of a process that builds the model and runs one arm, or none of them."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_this_process, (settings, arm))


def _peak_of_this_process(settings: Settings, arm: int | None) -> float | None:
    subject, _ = make_subject(settings)
    if arm is not None:
        make_arms(subject, settings)[arm].run()
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def where_time_goes(arm: Ours) -> dict[str, float]:
    """Shares of our time; tokenising and counting are timed alone, the rest is profiled."""

    def seconds(work: Callable[[], object]) -> float:
        return min(models.timed(work, "cpu") for _ in range(3))

    whole = seconds(arm.run)
    quantiles = iter((0.1, 0.2, 0.3))  # counts are kept, so each time others
    with TemporaryDirectory() as folder:
        seen = arm.observe(Path(folder))
        counting = seconds(lambda: count_routing(seen, next(quantiles)))
    aside = {"tokenising": seconds(arm.subject.token_ids) / whole, "counting": counting / whole}
    inside = shares(arm.run, arm.subject.model)
    left = 1 - sum(aside.values())
    return {part: share * left for part, share in inside.items()} | aside


def measure(settings: Settings, memory: bool = True) -> Report:
    """The whole benchmark; `memory` starts a process for each pass."""
    subject, size = make_subject(settings)
    arms = make_arms(subject, settings)
    tokens = sum(map(len, subject.token_ids())) / len(subject.items)
    active = size.active_body + size.head
    seconds, rates, results = race(arms, settings.rounds)
    an_item = [[value / len(subject.items) for value in row] for row in seconds]
    floors = [OPERATIONS * active * tokens / rate / 1e9 for rate in rates]
    rows = [
        Row(
            name=arm.name,
            seconds=Quartiles.of(an_item[index]),
            times_floor=_ratio(an_item[index], floors),
            speed_up=_ratio(an_item[-1], an_item[index]),
            peak_mb=peak_mb(settings, index) if memory else None,
        )
        for index, arm in enumerate(arms)
    ]
    return Report(
        threads=torch.get_num_threads(),
        tokens_an_item=tokens,
        weights=sum(p.numel() for p in subject.model.parameters()),
        active_weights=active,
        gflop_s=Quartiles.of(rates),
        product_gflop_s=model_products(subject),
        floor_seconds=Quartiles.of(floors),
        rows=rows,
        base_mb=peak_mb(settings, None) if memory else None,
        agreement=agreement(arms[0].read(results[0]), arms[1].read(results[1])),
        shares=where_time_goes(arms[0]),
    )


def _ratio(over: Sequence[float], under: Sequence[float]) -> Quartiles:
    return Quartiles.of([a / b for a, b in zip(over, under, strict=True)])


def markdown(report: Report) -> str:
    """The report as Markdown."""
    peer = report.rows[-1].name
    said = report.agreement
    lines = [
        f"{report.weights / 1e6:.1f}M weights, {report.active_weights / 1e6:.2f}M active, "
        f"{report.tokens_an_item:.0f} tokens an item, {report.threads} threads, float32; "
        f"square products {report.gflop_s} GFLOP/s; median over rounds [quartiles]",
        "",
        f"| pass | items/s | s an item | x the floor's time | x {peer}'s speed | peak MB |",
        "|---|---|---|---|---|---|",
        f"| arithmetic floor | {1 / report.floor_seconds.median:.1f} | "
        f"{report.floor_seconds.median:.4f} | 1 | | {_mb(report.base_mb)} (model alone) |",
    ]
    lines += [
        f"| {row.name} | {1 / row.seconds.median:.1f} | {row.seconds.median:.4f} | "
        f"{row.times_floor} | {row.speed_up} | {_mb(row.peak_mb)} |"
        for row in report.rows
    ]
    lines += [
        "",
        f"Agreement over {said['tokens']:.0f} tokens, of which {said['judged']:.1%} are labelled "
        f"by saliency in both: labels {said['labels']:.4%}, routing {said['routing']:.4%}, counts "
        f"{said['counts']:.4%}, counts over salient tokens {said['counts_salient']:.4%}.",
        "",
        "| where our time goes, one batch at a time | share |",
        "|---|---|",
    ]
    lines += [f"| {part} | {share:.1%} |" for part, share in report.shares.items()]
    lines += ["", "| product at the model's sizes | GFLOP/s |", "|---|---|"]
    lines += [f"| {name} | {rate:.0f} |" for name, rate in report.product_gflop_s.items()]
    return "\n".join(lines)


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


@click.command()
@click.option(
    "--published", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
    help="A checkout of the published code, to run it itself.",
)  # fmt: skip
@click.option("--items", type=click.IntRange(2), default=60)
@click.option("--rounds", type=click.IntRange(1), default=5)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="For --cards.")
@click.option("--cards", multiple=True, help="Model cards by name; the weights are random.")
@click.option("--long-tokens", type=click.IntRange(2), default=16384, help="For --cards.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def main(
    as_json: bool, device: str, cards: tuple[str, ...], long_tokens: int, **given: Any
) -> None:
    """Time identification against its peer and its floor."""
    if device == "cuda" and not cards:
        raise click.UsageError("--device cuda goes with --cards, as the small model is for a CPU")
    rows = []
    for row in measure_all(cards, device, given["items"], long_tokens):
        click.echo(row, err=as_json)
        rows.append(row)
    if cards:
        if as_json:
            found = [{"skipped": row} if isinstance(row, str) else asdict(row) for row in rows]
            click.echo(json.dumps(found, indent=1))
        return
    report = measure(Settings(**given))
    click.echo(json.dumps(asdict(report), indent=1) if as_json else markdown(report))


if __name__ == "__main__":
    main()

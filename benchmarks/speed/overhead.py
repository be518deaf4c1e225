"""What steering costs in time: steered against unsteered, in interleaved pairs.

    python benchmarks/speed/overhead.py [--engine both] [--device cuda] [--cards NAME ...] [--json]

Measured are a decode step at batch 1 (some 128 tokens in the KV cache) and one prefill. A pair
times both arms one after the other, their order alternates, and the result is the median of the
pairs' ratios with its quartiles. The row `A/A` does the same with two unsteered arms: its distance
from 1 is the noise. In transformers both arms are one model object; in vLLM they are engines of
their own, without and with the extension, and A/A is a second engine without it. A ratio holds
whatever steering causes, also `bias` sending more tokens to some experts; `--strength 0` times the
path alone. Models are random: a mid-size one, or with --cards the real sizes.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from models import RANDOM_MODEL, Subject, build, free_memory, machine, profile_of, save
from transformers_arm import Transformers
from vllm_arm import engines

from dsmoe_eval.models import identify_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.registry import load_model_card
from dsmoe_eval.steering import ModelIdentity, Steering, SteeringError

KINDS = ("bias", "reweight")
WARM_UP = 2  # pairs thrown away
MEMORY_SLACK = 1.15

Arm = Callable[[int], float]
"""Of the pair's number: seconds for the work, or for one step of it."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    engine: str
    device: str
    pairs: int
    prefill: int
    strength: float
    as_json: bool

    def say(self, line: str) -> None:
        """Progress; with --json, stdout is left to the result."""
        click.echo(line, err=self.as_json)


@dataclass(frozen=True)
class Row:
    """One comparison; times in ms, `ratio` is (first quartile, median, third) over the pairs."""

    model: str
    engine: str
    work: str
    arm: str
    pairs: int
    base_ms: float
    arm_ms: float
    ratio: tuple[float, float, float]
    base_gflop_s: float
    base_gb_s: float

    def __str__(self) -> str:
        low, median, high = self.ratio
        return (
            f"{self.model:13} {self.engine:12} {self.work:12} {self.arm:10} x{median:.4f} "
            f"[{low:.4f} {high:.4f}] n={self.pairs:<3} {self.base_ms:9.3f} -> {self.arm_ms:9.3f} ms"
            f"   base: {self.base_gflop_s:8.1f} GFLOP/s {self.base_gb_s:7.1f} GB/s"
        )


def compare(base: Arm, arm: Arm, pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of both arms in each pair, without the warm-up."""
    seconds: list[tuple[float, float]] = []
    for pair in range(pairs + WARM_UP):
        if pair % 2:
            other, mine = arm(pair), base(pair)
        else:
            mine, other = base(pair), arm(pair)
        seconds.append((mine, other))
    mine_all, other_all = zip(*seconds[WARM_UP:], strict=True)
    return list(mine_all), list(other_all)


def row(
    subject: Subject, settings: Settings, labels: tuple[str, str, str], base: Arm, arm: Arm
) -> Row:
    """Measure one row and print it; `labels` are engine, work (decode or prefill) and arm."""
    engine, work, name = labels
    tokens = 1 if work == "decode" else settings.prefill
    pairs = settings.pairs if tokens == 1 else max(2, settings.pairs // 6)
    mine, other = compare(base, arm, pairs)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    seconds = statistics.median(mine)
    gflop, gigabytes = subject.size.floor(tokens)
    found = Row(
        model=subject.name, engine=engine, work=work if tokens == 1 else f"{work} {tokens}",
        arm=name, pairs=pairs, base_ms=1e3 * seconds, arm_ms=1e3 * statistics.median(other),
        ratio=(low, median, high), base_gflop_s=gflop / seconds, base_gb_s=gigabytes / seconds,
    )  # fmt: skip
    settings.say(str(found))
    return found


def run_transformers(subject: Subject, model: Any, settings: Settings) -> Iterator[Row]:
    """Rows of the transformers engine."""
    bench = Transformers(model, settings.device, settings.prefill)
    identity = identify_model(subject.name, "random", model)
    arms: dict[str, Any] = {"A/A": nullcontext()}
    for kind in KINDS:
        profile = profile_of(identity, kind, subject.channel, settings.strength)
        arms[kind] = Steering(model, profile)
    for work in ("decode", "prefill"):
        for name, steering in arms.items():
            base, arm = bench.arms(work, nullcontext()), bench.arms(work, steering)
            try:
                yield row(subject, settings, ("transformers", work, name), base, arm)
            except SteeringError as error:
                settings.say(f"{subject.name} transformers {work} {name}: skipped, {error}")


def run_vllm(subject: Subject, settings: Settings, folder: Path) -> Iterator[Row]:
    """Rows of the vLLM engine, each against the first plain engine."""
    settings.say(f"{subject.name}: starting three vLLM engines")
    with engines(folder, settings.device, settings.prefill) as (plain, twin, steerable):
        found = steerable.llm.collective_rpc("dsmoe_routers")[0]
        identity = ModelIdentity(
            name=subject.name, fingerprint="random", routers=found["hash"],
            layers=tuple(layer["layer"] for layer in found["layers"]),
            experts=found["layers"][0]["experts"],
        )  # fmt: skip
        for work in ("decode", "prefill"):
            base = getattr(plain, work)
            yield row(subject, settings, ("vllm", work, "A/A"), base, getattr(twin, work))
            arm = getattr(steerable, work)
            yield row(subject, settings, ("vllm", work, "unsteered"), base, arm)
            for kind in KINDS:
                profile = profile_of(identity, kind, subject.channel, settings.strength)
                steerable.llm.collective_rpc("dsmoe_steer", args=(profile.to_json(),))
                yield row(subject, settings, ("vllm", work, kind), base, arm)
            steerable.llm.collective_rpc("dsmoe_remove")


def wanted(cards: tuple[str, ...], settings: Settings) -> Iterator[tuple[Any, str, str | None]]:
    """Configuration, name and vLLM's class name of each model to time, for `build`.

    A card too large for the device is skipped, and said so.
    """
    from transformers import AutoConfig

    if not cards:
        yield AutoConfig.for_model("qwen3_moe", **RANDOM_MODEL), "random", None
    for name in cards:
        card = load_model_card(name)
        width = 2 if settings.device == "cuda" else 4
        needed, free = card.parameters.total * width * MEMORY_SLACK, free_memory(settings.device)
        if needed > free:
            settings.say(f"{name}: skipped, needs {needed / 1e9:.0f} GB of {free / 1e9:.0f} free")
            continue
        yield card_config(card), name, card.class_name


def describe(subject: Subject, config: Any, settings: Settings) -> None:
    """What is measured, its floor, and what the machine reaches in plain products."""
    size = subject.size
    gflop_s, gb_s = machine(settings.device, subject.dtype)
    step, whole = size.floor(1), size.floor(settings.prefill)
    settings.say(
        f"{subject.name}: {config.model_type}, {(size.body + size.head) / 1e9:.2f}B weights, "
        f"{(size.active_body + size.head) / 1e9:.3f}B active (no input embedding), "
        f"{subject.dtype}, experts by {getattr(config, '_experts_implementation', None)}\n"
        f"  floor: decode {step[0]:.2f} GFLOP, {step[1]:.3f} GB; prefill {settings.prefill} "
        f"{whole[0]:.0f} GFLOP, {whole[1]:.2f} GB\n"
        f"  machine, plain products: {gflop_s:.0f} GFLOP/s, {gb_s:.1f} GB/s, so at best decode "
        f"{1e3 * max(step[0] / gflop_s, step[1] / gb_s):.2f} ms, prefill "
        f"{1e3 * max(whole[0] / gflop_s, whole[1] / gb_s):.1f} ms"
    )


def measure(config: Any, name: str, class_name: str | None, settings: Settings) -> Iterator[Row]:
    """All rows of one model; it leaves memory before vLLM's engines come."""
    subject, model = build(config, name, settings.device)
    with torch.inference_mode():
        describe(subject, model.config, settings)
        if settings.engine != "vllm":
            yield from run_transformers(subject, model, settings)
    if settings.engine == "transformers":
        return
    with tempfile.TemporaryDirectory() as place:
        free = shutil.disk_usage(place).free
        needed = sum(p.numel() * p.element_size() for p in model.parameters())
        if needed > free:
            settings.say(f"{name} vllm: skipped, {needed / 1e9:.0f} GB on disk not free")
            return
        save(model, Path(place), class_name)
        del model
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        yield from run_vllm(subject, settings, Path(place))


@click.command()
@click.option("--engine", type=click.Choice(["transformers", "vllm", "both"]), default="both")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--cards", multiple=True, help="Model cards by name; the weights are random.")
@click.option("--pairs", type=click.IntRange(2), default=60, help="Of decode; a sixth of prefill.")
@click.option("--prefill", type=click.IntRange(256), default=2048, help="Tokens.")
@click.option("--strength", type=click.FloatRange(0), default=1.0)
@click.option("--quick", is_flag=True, help="4 pairs, prefill of 256: whether it runs at all.")
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON; progress goes to stderr.")
@click.argument("more_cards", nargs=-1)
def main(quick: bool, cards: tuple[str, ...], more_cards: tuple[str, ...], **given: Any) -> None:
    """Time steered against unsteered."""
    settings = Settings(**given | ({"pairs": 4, "prefill": 256} if quick else {}))
    rows = [
        found
        for model in wanted(cards + more_cards, settings)
        for found in measure(*model, settings)
    ]
    if settings.as_json:
        click.echo(json.dumps([asdict(found) for found in rows], indent=1))


if __name__ == "__main__":
    main()

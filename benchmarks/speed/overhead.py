"""What steering costs in time: steered against unsteered, in interleaved rounds.

    python benchmarks/speed/overhead.py [--engine both] [--device cuda] [--cards NAME ...] [--json]

Measured are a decode step at batch 1 (some 128 tokens in the KV cache) and one prefill. A round
times the unsteered model and then each arm, in an order that changes; the result of an arm is the
median of the rounds' ratios to the unsteered time, with its quartiles. The arm `A/A` is a second
unsteered one: its distance from 1 is the noise. In transformers all arms are one model object; on a
GPU there is one more, `zero bias`, which is base as the engine runs it. In vLLM the arms are
engines of their own, without and with the extension. A ratio holds whatever steering causes, also
`bias` sending more tokens to some experts; `--strength 0` times the path alone. `added` counts what
steering adds to a layer in a decode step: operations on a CPU, kernels on a GPU. Models are random:
by default of the shape of lab-poly, where starting operations is most of the time; with --cards the
real sizes.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from models import LAB_POLY, Subject, build, free_memory, machine, profile_of, save
from operations import added_per_layer
from transformers_arm import Transformers
from vllm_arm import engines

from dsmoe_eval.models import identify_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.registry import load_model_card
from dsmoe_eval.steering import ModelIdentity, Steering, SteeringError, find_routers
from dsmoe_eval.steering.zero_bias import zero_biases

KINDS = ("bias", "mask", "reweight")
PAIRS = {"cpu": 300, "cuda": 60}
PREFILLS = {"cpu": 2, "cuda": 20}  # at least; a prefill takes a GPU no longer than a step
WARM_UP = 2  # rounds thrown away
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
    floor_ms: float
    added: float | None

    def __str__(self) -> str:
        low, median, high = self.ratio
        return (
            f"{self.model:13} {self.engine:12} {self.work:12} {self.arm:10} x{median:.4f} "
            f"[{low:.4f} {high:.4f}] n={self.pairs:<3} {self.base_ms:9.3f} -> {self.arm_ms:9.3f} ms"
            f"   base: {self.base_ms / self.floor_ms:5.1f} floors, "
            f"{self.base_gflop_s:8.1f} GFLOP/s {self.base_gb_s:7.1f} GB/s"
            + ("" if self.added is None else f"   added {self.added:g} a layer")
        )


def interleaved(base: Arm, arms: Mapping[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of base, under the name "", and of all arms in each round, without the warm-up."""
    every = {"": base, **arms}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for number in range(rounds + WARM_UP):
        at = number // 2 % len(every)
        order = [*every][at:] + [*every][:at]
        for name in order if number % 2 else reversed(order):
            seconds[name].append(every[name](number))
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def rows(
    subject: Subject,
    settings: Settings,
    labels: tuple[str, str],
    base: Arm,
    arms: Mapping[str, Arm],
    added: Mapping[str, float],
) -> Iterator[Row]:
    """Measure the arms and print them; `labels` are engine and work (decode or prefill)."""
    engine, work = labels
    tokens = 1 if work == "decode" else settings.prefill
    rounds = settings.pairs if tokens == 1 else max(PREFILLS[settings.device], settings.pairs // 6)
    seconds = interleaved(base, arms, rounds)
    mine = seconds.pop("")
    whole = statistics.median(mine)
    gflop, gigabytes = subject.size.floor(tokens)
    gflop_s, gb_s = machine(settings.device, subject.dtype)
    floor = gigabytes / gb_s if tokens == 1 else gflop / gflop_s
    for name, other in seconds.items():
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found = Row(
            model=subject.name, engine=engine, work=work if tokens == 1 else f"{work} {tokens}",
            arm=name, pairs=rounds, base_ms=1e3 * whole, arm_ms=1e3 * statistics.median(other),
            ratio=(low, median, high), base_gflop_s=gflop / whole, base_gb_s=gigabytes / whole,
            floor_ms=1e3 * floor, added=added.get(name),
        )  # fmt: skip
        settings.say(str(found))
        yield found


def steerings(
    subject: Subject, model: Any, settings: Settings
) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """The arms by name: what puts one on. On a GPU they have base's zero biases, as in the engine.

    An intervention that this model refuses is left out, and said so.
    """
    identity = identify_model(subject.name, "random", model)
    arms: dict[str, Callable[[], AbstractContextManager[object]]] = {"A/A": nullcontext}
    if settings.device == "cuda":
        arms["zero bias"] = lambda: zero_biases(model)
    for kind in KINDS:
        steering = Steering(model, profile_of(identity, kind, subject.channel, settings.strength))
        try:
            with steering:
                arms[kind] = lambda steering=steering: _on(model, steering)
        except SteeringError as error:
            settings.say(f"{subject.name} transformers {kind}: skipped, {error}")
    return arms


@contextmanager
def _on(model: Any, steering: Steering) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(zero_biases(model))
        stack.enter_context(steering)
        yield


def run_transformers(subject: Subject, model: Any, settings: Settings) -> Iterator[Row]:
    """Rows of the transformers engine."""
    bench = Transformers(model, settings.device, settings.prefill)
    arms = steerings(subject, model, settings)
    added = added_per_layer(bench.step, arms, len(find_routers(model)), settings.device)
    for work in ("decode", "prefill"):
        timed = {name: bench.arms(work, put_on) for name, put_on in arms.items()}
        base = bench.arms(work, nullcontext)
        yield from rows(
            subject,
            settings,
            ("transformers", work),
            base,
            timed,
            added if work == "decode" else {},
        )


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
        profiles = {
            kind: profile_of(identity, kind, subject.channel, settings.strength).to_json()
            for kind in KINDS
        }
        for work in ("decode", "prefill"):
            base, arm = getattr(plain, work), getattr(steerable, work)

            def unsteered(number: int, arm: Arm = arm) -> float:
                steerable.llm.collective_rpc("dsmoe_remove")
                return arm(number)

            def steered(number: int, profile: str, arm: Arm = arm) -> float:
                steerable.llm.collective_rpc("dsmoe_steer", args=(profile,))
                return arm(number)

            arms = {"A/A": getattr(twin, work), "unsteered": unsteered} | {
                kind: partial(steered, profile=profile) for kind, profile in profiles.items()
            }
            yield from rows(subject, settings, ("vllm", work), base, arms, {})


def wanted(cards: tuple[str, ...], settings: Settings) -> Iterator[tuple[Any, str, str | None]]:
    """Configuration, name and vLLM's class name of each model to time, for `build`.

    A card too large for the device is skipped, and said so.
    """
    from transformers import AutoConfig

    if not cards:
        yield AutoConfig.from_pretrained(LAB_POLY), "lab-poly", None
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
@click.option(
    "--pairs",
    type=click.IntRange(2),
    help="Rounds of decode [300, on a GPU 60]; a sixth of prefill, on a GPU at least 20.",
)
@click.option("--prefill", type=click.IntRange(256), default=2048, help="Tokens.")
@click.option("--strength", type=click.FloatRange(0), default=1.0)
@click.option("--quick", is_flag=True, help="4 pairs, prefill of 256: whether it runs at all.")
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON; progress goes to stderr.")
@click.argument("more_cards", nargs=-1)
def main(quick: bool, cards: tuple[str, ...], more_cards: tuple[str, ...], **given: Any) -> None:
    """Time steered against unsteered."""
    given["pairs"] = given["pairs"] or PAIRS[given["device"]]
    settings = Settings(**given | ({"pairs": 4, "prefill": 256} if quick else {}))
    measured = [
        found
        for model in wanted(cards + more_cards, settings)
        for found in measure(*model, settings)
    ]
    if settings.as_json:
        click.echo(json.dumps([asdict(found) for found in measured], indent=1))


if __name__ == "__main__":
    main()

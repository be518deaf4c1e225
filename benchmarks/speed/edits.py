"""How long a CPU takes to call an edit of selected weights, alone and in a model's decode step.

    python benchmarks/speed/edits.py [--device cuda] [--cards NAME ...] [--rounds 20]

A decode step at batch 1 is bound by the CPU that starts operations, so on a GPU, too, this is what
an edit costs. Each way of computing `reweight` and `amplify` is called in a loop of nothing else,
and then inside the routers of a model, in steps that alternate with those of the other ways; both
are medians. `nothing` is an edit that returns its input: the cost of the way to it. `a step` is the
time of the whole step. Where one step differs by more than its calls, the edit costs something that
is not in its call. Models are random; by default of lab-poly's shape, with routers that divide the
selected weights by their sum, and with routers that do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import click
import torch
from models import LAB_POLY, build, profile_of, timed
from transformers_arm import Transformers

from dsmoe_eval.models import identify_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.registry import load_model_card
from dsmoe_eval.steering import Steering, find_routers, selection
from dsmoe_eval.steering.interventions import reweighted, reweighted_in_a_kernel, scale_chosen
from dsmoe_eval.steering.kernels import one_kernel
from dsmoe_eval.steering.router_source import SELECTED

CALLS, PROMPT = 1000, 256
WARM = 6  # steps after a change of arm, until Python has specialised its code again
Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Clock:
    """An edit that times itself; `given` are the arguments of its last call."""

    change: Change
    seconds: list[float] = field(default_factory=list)
    given: tuple[torch.Tensor, ...] = ()

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """Edit, and time it."""
        start = time.perf_counter()
        edited = self.change(*given)
        self.seconds.append(time.perf_counter() - start)
        self.given = given
        return edited


def ways(divides: bool) -> dict[str, tuple[str, Change]]:
    """Kind and edit by name, for routers that divide by the sum or not."""
    nothing: Change = lambda values, _indices, _factor: values  # noqa: E731
    if divides:  # there `amplify` is not edited where the router selects
        return {"nothing": ("reweight", nothing), "reweight": ("reweight", scale_chosen)}
    kernel = one_kernel(reweighted_in_a_kernel, torch.device("cuda"))  # compiles for a CPU, too
    return {
        "nothing": ("amplify", nothing),
        "amplify": ("amplify", scale_chosen),
        "reweight, operations": ("reweight", reweighted),
        "reweight, one kernel": ("reweight", kernel),
    }


@contextmanager
def steered(model: Any, kind: str, clock: Clock) -> Iterator[None]:
    """Steer every layer by `kind`, with the clock in place of the edit of selected values."""
    profile = profile_of(identify_model("timed", "random", model), kind, "logit", 1.0)
    site = selection.SelectionSite
    original = site.edit

    def edit(place: Any, factor: torch.Tensor, compiled: bool = True) -> Any:
        selected = original(place, factor, compiled)
        if not compiled:  # a trial of the site
            return selected
        return selected._replace(edit=lambda values, indices: clock(values, indices, factor))

    with mock.patch.object(site, "edit", edit), Steering(model, profile):
        if not all(SELECTED in vars(router.module) for router in find_routers(model)):
            raise click.ClickException(f"{kind}: these routers are not edited where they select")
        yield


def in_a_loop(clock: Clock, device: str) -> float:
    """Microseconds of a call with the arguments of the last one in the model."""
    given = clock.given
    work = clock.change
    return 1e6 / CALLS * timed(lambda: [work(*given) for _ in range(CALLS)], device)


def measure(model: Any, divides: bool, device: str, rounds: int) -> Iterator[str]:
    """Yield a line for each way; its first call, which compiles, is not counted."""
    bench = Transformers(model, device, PROMPT)
    clocks = {name: (kind, Clock(change)) for name, (kind, change) in ways(divides).items()}
    steps: dict[str, list[float]] = {name: [] for name in ("base", *clocks)}
    for at in range(rounds + 1):
        for name in steps if at % 2 else reversed(steps):
            bench.refill()
            kind, clock = clocks.get(name, ("", None))
            with steered(model, kind, clock) if clock else nullcontext():
                for _ in range(WARM):
                    bench.step()
                steps[name].append(timed(bench.step, device))
            if clock and at == 0:
                clock.seconds.clear()
    middle = {name: 1e3 * statistics.median(values[1:]) for name, values in steps.items()}
    yield f"  {'base':22} {'':>10} {'':>10} {middle['base']:10.3f} {1:8.3f}"
    for name, (_, clock) in clocks.items():
        inside, alone = 1e6 * statistics.median(clock.seconds), in_a_loop(clock, device)
        ratio = middle[name] / middle["base"]
        yield f"  {name:22} {alone:10.1f} {inside:10.1f} {middle[name]:10.3f} {ratio:8.3f}"


def subjects(cards: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """Configuration and name of each model."""
    from transformers import AutoConfig

    for name in cards:
        yield card_config(load_model_card(name)), name
    for divides in () if cards else (True, False):
        config = AutoConfig.from_pretrained(LAB_POLY)
        config.norm_topk_prob = divides
        yield config, "lab-poly" + ("" if divides else ", routers that do not divide")


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--cards", multiple=True, help="Model cards by name; the weights are random.")
@click.option("--rounds", type=click.IntRange(2), default=60)
def main(device: str, cards: tuple[str, ...], rounds: int) -> None:
    """Time the calls of edits."""
    click.echo(f"  {'µs; ms':22} {'in a loop':>10} {'in a step':>10} {'a step':>10} {'of base':>8}")
    for config, name in subjects(cards):
        _, model = build(config, name, device)
        divides = bool(getattr(config, "norm_topk_prob", True))
        click.echo(f"{name}: {len(find_routers(model))} layers, {device}")
        with torch.inference_mode():
            for line in measure(model, divides, device, rounds):
                click.echo(line)


if __name__ == "__main__":
    main()

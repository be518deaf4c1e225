"""What generation costs in time: ours against lm-eval's `hf` model, in interleaved rounds.

    python benchmarks/speed/generation.py [--device cuda] [--cards NAME ...] [--rounds 9] [--header]

Both answer the same prompts on one model object, in batches of 1, 16 and 64, greedily: once every
answer has the same length, once a stop string ends them at different lengths. `own` is ours with
batches of its own choice, against `hf` with 64. A ratio is the median over rounds of our tokens a
second over theirs, with its quartiles; the order alternates. The floor is the arithmetic of the
prompts and, for each step, the bytes of the weights that are read (of experts, as many as are
chosen by so many tokens if all are equally likely) and of the cache, at the rates of this machine.
Copies are counted in one more pass: numbers that Python reads from a tensor, and tensors.

With --header, ours with the common beginning of all prompts computed once, against ours without.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import models
import torch
from identify import Quartiles
from overhead import Settings as Cards
from overhead import wanted
from quiz import QUIZ_MODEL, make_items, make_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from dsmoe_eval.engines.transformers.answers import bytes_per_token
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.models.loading import LoadedModel, identify_model
from dsmoe_eval.steering import find_routers

SIZES = (1, 16, 64)
BATCH_TOKENS = 8192
Texts = list[str]
Arm = Callable[[], Texts]


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    device: str
    rounds: int
    new: int
    prompt: int
    sizes: tuple[int, ...] = SIZES


@dataclass(frozen=True)
class Subject:
    """A model, its tokenizer, and the rates of this machine."""

    name: str
    loaded: LoadedModel
    size: models.Size
    gflop_s: float
    gb_s: float

    def floor(self, rows: int, prompt: int, steps: Sequence[int]) -> float:
        """Seconds at least for `rows` prompts; `steps` are the lengths of the answers."""
        router = find_routers(self.loaded.model)[0]
        chosen = router.top_k / router.experts
        routed = (self.size.body - self.size.active_body) / (1 - chosen)
        cached = bytes_per_token(self.loaded.model)
        read = 0.0
        for step in range(max(steps)):
            going = sum(length > step for length in steps)
            weights = self.size.body + self.size.head - routed * (1 - chosen) ** going
            read += weights * self.size.width + going * (prompt + step) * cached
        flop = 2 * rows * (prompt * self.size.active_body + self.size.head)
        return flop / self.gflop_s / 1e9 + read / self.gb_s / 1e9


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    tokens_s: tuple[Quartiles, Quartiles]
    ratio: Quartiles
    over_floor: Quartiles
    copies: tuple[str, str]
    same: str

    def __str__(self) -> str:
        ours, theirs = self.tokens_s
        return (
            f"| {self.name} | {ours} | {theirs} | {self.ratio} | {self.over_floor} | "
            f"{self.copies[0]} | {self.copies[1]} | {self.same} |"
        )


HEAD = (
    "| batch | ours, tokens/s | other, tokens/s | ours over other | over the floor's time "
    "| our copies a step | other's | same answers |\n|---|---|---|---|---|---|---|---|"
)


class Copies(TorchDispatchMode):
    """Counts what crosses to the host; on a CPU nothing does, but the same calls are made."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = self.tensors = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.scalars += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Also count `tolist`, `cpu` and `numpy`."""
        kept = {name: getattr(torch.Tensor, name) for name in ("tolist", "cpu", "numpy")}

        def counted(read: Any) -> Any:
            def call(*given: Any, **more: Any) -> Any:
                self.tensors += 1
                return read(*given, **more)

            return call

        for name, read in kept.items():
            setattr(torch.Tensor, name, counted(read))
        try:
            with self:
                yield
        finally:
            for name, read in kept.items():
                setattr(torch.Tensor, name, read)


def subjects(cards: tuple[str, ...], settings: Settings) -> Iterator[Subject]:
    """Each model to time, on the device."""
    from transformers import AutoConfig

    if cards:
        given = Cards("transformers", settings.device, 0, 0, 0, False)
        configs = [(config, name) for config, name, _ in wanted(cards, given)]
    else:
        configs = [(AutoConfig.for_model("olmoe", **QUIZ_MODEL), "random")]
    for config, name in configs:
        built, model = models.build(config, name, settings.device)
        tokenizer = make_tokenizer(config.get_text_config().vocab_size)
        tokenizer.eos_token = tokenizer.pad_token  # lm-eval wants an end
        loaded = LoadedModel(model, tokenizer, identify_model("random", "0", model))
        yield Subject(name, loaded, built.size, *models.machine(settings.device, built.dtype))
        del model, loaded
        gc.collect()


def prompts_of(subject: Subject, count: int, header: int, tokens: int) -> Texts:
    """Prompts of made-up words: the first `header` tokens are the same, `tokens` are their own."""
    vocabulary = min(subject.loaded.tokenizer.vocab_size, 8000)
    words = " ".join(one.question for one in make_items(24 * count, vocabulary)).split()
    own = [words[place * tokens :][:tokens] for place in range(count)]
    return [" ".join([*words[-header:], *some] if header else some) for some in own]


def requests_of(prompts: Texts, until: Sequence[str], new: int) -> list[Any]:
    """Lm-eval's requests for greedy answers."""
    from lm_eval.api.instance import Instance

    how = {"until": list(until), "max_gen_toks": new, "do_sample": False}
    return [
        Instance(request_type="generate_until", doc={}, arguments=(one, dict(how)), idx=0)
        for one in prompts
    ]


def engine_of(subject: Subject, rows: int | None, shares: bool = True) -> TransformersLM:
    """Our engine, with at most so many rows a batch; None for its own choice."""
    engine = TransformersLM(subject.loaded, BATCH_TOKENS)
    engine.shares = engine.shares and shares
    if rows is not None:
        engine._answers.rows = rows
    return engine


def arms(
    subject: Subject, name: int | None, prompts: Texts, until: Sequence[str], new: int
) -> tuple[Arm, Arm]:
    """Ours and lm-eval's, in batches of one size."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    requests = requests_of(prompts, until, new)
    ours = engine_of(subject, name)
    peer = HFLM(
        pretrained=subject.loaded.model,
        tokenizer=subject.loaded.tokenizer,
        batch_size=name or max(SIZES),
        device=str(subject.loaded.model.device),
    )

    def theirs() -> Texts:
        answers: Texts = peer.generate_until(requests, disable_tqdm=True)
        return answers

    return lambda: ours.generate_until(requests), theirs


def a_stop(answers: Texts) -> str:
    """The word that ends the answers nearest to their half on average."""
    texts = [answer.split() for answer in answers]
    half = sum(map(len, texts)) / len(texts) / 2

    def miss(word: str) -> float:
        ends = [text.index(word) + 1 if word in text else len(text) for text in texts]
        return abs(sum(ends) / len(ends) - half)

    return min({word for text in texts for word in text}, key=miss)


def lengths(subject: Subject, answers: Texts, until: Sequence[str]) -> list[int]:
    """Tokens of each answer, its stop string included: one for each word."""
    ended = 1 if until else 0
    return [len(subject.loaded.tokenizer(text).input_ids) + ended for text in answers]


def compare(
    subject: Subject, label: str, prompts: Texts, pair: tuple[Arm, Arm], until: Sequence[str],
    rounds: int,
) -> Row:  # fmt: skip
    """Time two arms in turn, after one pass of each that is not timed but counted."""
    copies, answers = [], []
    for arm in pair:
        counter = Copies()
        arm()
        with counter.counting():
            answers.append(arm())
        copies.append(counter)
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds):
        for index in (1, 0) if turn % 2 else (0, 1):
            seconds[index].append(models.timed(pair[index], str(subject.loaded.model.device.type)))
    sizes = lengths(subject, answers[0], until)
    tokens, steps = sum(sizes), max(sizes)
    rows = len(prompts)
    if label.startswith("1 "):
        steps = tokens
    prompt = len(subject.loaded.tokenizer(prompts[0]).input_ids)
    floor = (
        sum(subject.floor(1, prompt, [size]) for size in sizes)
        if label.startswith("1 ")
        else subject.floor(rows, prompt, sizes)
    )
    same = sum(a.strip() == b.strip() for a, b in zip(*answers, strict=True))
    ours, theirs = ([tokens / one for one in some] for some in seconds)
    first, second = (f"{(one.scalars + one.tensors) / steps:.2f}" for one in copies)
    return Row(
        label, (Quartiles.of(ours), Quartiles.of(theirs)),
        Quartiles.of([a / b for a, b in zip(ours, theirs, strict=True)]),
        Quartiles.of([one / floor for one in seconds[0]]), (first, second), f"{same} of {rows}",
    )  # fmt: skip


def against_hf(subject: Subject, settings: Settings) -> Iterator[Row]:
    """All rows of one model."""
    whole: Texts = []
    for size in settings.sizes:
        prompts = prompts_of(subject, size if size > 1 else 2, 0, settings.prompt)
        pair = arms(subject, size, prompts, (), settings.new)
        yield compare(subject, f"{size} x {settings.new}", prompts, pair, (), settings.rounds)
        whole = whole if size < max(settings.sizes) else pair[0]()
    until = [a_stop(whole)]
    for name, label in ((max(settings.sizes), f"{max(settings.sizes)}"), (None, "own")):
        pair = arms(subject, name, prompts, until, settings.new)
        label = f"{label}, stop string"
        yield compare(subject, label, prompts, pair, until, settings.rounds)


def behind_a_header(subject: Subject, settings: Settings) -> Iterator[Row]:
    """Ours with and without sharing of a common beginning."""
    rows = max(settings.sizes)
    prompts = prompts_of(subject, rows, 750, settings.prompt)
    requests = requests_of(prompts, (), settings.new)
    shared, whole = (engine_of(subject, None, shares) for shares in (True, False))
    pair = (lambda: shared.generate_until(requests), lambda: whole.generate_until(requests))
    label = f"{rows} x {settings.new}, header of 750"
    yield compare(subject, label, prompts, pair, (), settings.rounds)


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--cards", multiple=True, help="Model cards by name; the weights are random.")
@click.option("--rounds", type=click.IntRange(2), default=9)
@click.option("--new", type=click.IntRange(2), default=32, help="Tokens of an answer.")
@click.option("--prompt", type=click.IntRange(1), default=48, help="Tokens of a prompt.")
@click.option("--sizes", default="1,16,64", help="Batch sizes, the largest last.")
@click.option("--header", is_flag=True, help="Sharing of a common beginning, on and off.")
@click.argument("more_cards", nargs=-1)
def main(
    header: bool, cards: tuple[str, ...], more_cards: tuple[str, ...], sizes: str, **given: Any
) -> None:
    """Time generation against lm-eval's `hf` model and against its floor."""
    settings = Settings(**given, sizes=tuple(map(int, sizes.split(","))))
    for subject in subjects(cards + more_cards, settings):
        start = time.perf_counter()
        click.echo(
            f"{subject.name} on {settings.device}, {subject.loaded.dtype}, experts by "
            f"{subject.loaded.experts_implementation}; prompts of {settings.prompt} tokens; "
            f"machine: {subject.gflop_s:.0f} GFLOP/s, {subject.gb_s:.1f} GB/s; "
            f"median over {settings.rounds} rounds [quartiles]\n{HEAD}"
        )
        for found in (behind_a_header if header else against_hf)(subject, settings):
            click.echo(str(found))
        click.echo(f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()

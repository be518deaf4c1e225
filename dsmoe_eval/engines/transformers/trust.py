"""Whether shared beginnings of texts are computed rightly: the question, and its answers so far.

It is a question about code, so a small random model of the same class and configuration answers it,
in float32, on the device and by the attention of the run. There rounding is far below what a wrong
mask, position or cache does. The answer is kept in the user's cache until anything changes that it
depends on. The model itself is compared once, in its dtype, where rounding depends on the batch:
sharing may differ from whole texts by a few times what two batchings of whole texts differ by.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import EvalWarning, UserError, one_line, out_of_memory
from ...files import cache_folder, damage, read_json, seal, unseal, write_json
from ...models.miniature import miniature
from ...models.shrinking import shrink
from ...steering import NoRouterError, Router, SteeringError, find_routers
from ...tasks.language_model import LogLikelihood
from ..lm import Pair
from .next_tokens import Tally
from .prefix_tree import MIN_HEADER, ROW_TOKENS, plan_groups
from .shared_prefix_forward import make_cache, prepare_rows, score_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SMALL = "log-likelihoods of a small model of its class in float32"
PROVEN = 1e-5
"""The largest permitted difference per token on the small model, in nats."""
ABSOLUTE, RELATIVE = 1e-4, 1e-6
ROUNDINGS, SPREADS = 8, 3
WAYS = (ROW_TOKENS, 24, 1)
"""Limits of tokens per row: trees without a header, trees behind one, plain rows behind one."""
WINDOW = 8
"""The window of the small model's sliding attention, shorter than its texts."""
_QUESTIONS, _MORE = 2, 8
_CHANGES_NOTHING = (
    "_name_or_path", "architectures", "dtype", "quantization_config", "transformers_version",
)  # fmt: skip
_SOURCES = ("next_tokens", "prefix_tree", "shared_prefix_forward", "trust")


@dataclass(frozen=True, slots=True)
class SharingOutcome:
    """A comparison of shared with whole texts; in nats, NaN where it could not be computed."""

    agrees: bool
    difference: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer of the small model.

    Attributes:
        outcome: of its comparison.
        unknown: why there is no answer; empty if there is one.
    """

    outcome: SharingOutcome
    unknown: str = ""


def compare_ways(
    vocabulary: NDArray[np.int64],
    shared: Callable[[Sequence[Pair], int], Sequence[LogLikelihood]],
    whole: Callable[[Sequence[Pair]], Sequence[LogLikelihood]],
    rounding: float,
    ways: Sequence[int],
) -> SharingOutcome:
    """Compare shared with whole texts on the model itself, on more texts before it is refused.

    Permitted is the largest of: `SPREADS` times the largest difference between whole texts in two
    batchings; in float32 `ABSOLUTE`, or `RELATIVE` of the value; in 16 bits `ROUNDINGS` roundings
    per token.

    Args:
        vocabulary: token ids to draw texts from.
        shared: scores texts, with a limit of tokens per row, one of `WAYS`.
        whole: scores whole texts, all in common batches.
        rounding: the distance from 1 to the next number of the model's dtype.
        ways: the ways of sharing to compare.
    """
    for questions in (_QUESTIONS, _MORE):
        pairs = drawn(vocabulary, questions)
        expected = _values(whole(pairs))
        lengths = torch.tensor([len(continuation) for _, continuation in pairs])
        found = torch.stack([_values(shared(pairs, most)) for most in ways])
        difference = (found - expected).abs().amax(0)
        precise = rounding < ABSOLUTE
        allowed = RELATIVE * expected.abs() if precise else ROUNDINGS * rounding * lengths
        allowed = allowed.clamp(min=ABSOLUTE)
        if not precise or bool((difference > allowed).any()):
            single = _values([whole([pair])[0] for pair in pairs])
            allowed = allowed.clamp(min=SPREADS * float((single - expected).abs().max()))
        agrees, worst = bool((difference <= allowed).all()), int((difference - allowed).argmax())
        if agrees:
            break
    return SharingOutcome(agrees, float(difference[worst]), float(allowed[worst]))


def _values(scores: Sequence[LogLikelihood]) -> Tensor:
    return torch.tensor([total for total, _ in scores], dtype=torch.float64)


def prove(model: PreTrainedModel, name: str) -> Proof:
    """Return whether sharing is right on a small model like this one, from the cache if known.

    Args:
        model: the model of the run.
        name: its name, for a warning that there is no small model like it.
    """
    question = question_of(model)
    digest = _hash(json.dumps(question, sort_keys=True).encode())
    path = cache_folder() / "sharing" / f"{digest[:32]}.json"
    known = _read(path, question)
    if known is not None:
        return Proof(known)
    proof = _ask(model)
    if proof.unknown:
        warnings.warn(
            f"model {name!r}: whether shared beginnings are computed rightly cannot be tested on a "
            f"small model of its class ({proof.unknown}); they are compared on the model itself "
            "only",
            EvalWarning,
            stacklevel=5,
        )
    else:
        _keep(path, question, proof.outcome)
    return proof


def question_of(model: PreTrainedModel) -> dict[str, str]:
    """Return all that the answer for a model depends on, by name; sizes of weights are left out."""
    config, text = model.config, model.config.get_text_config()
    fields = shrink(config).to_dict()
    flags = {name: value for name, value in fields.items() if name not in _CHANGES_NOTHING}
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "configuration": _hash(json.dumps(flags, sort_keys=True, default=str).encode()),
        "device": model.device.type,
        "attention": str(getattr(text, "_attn_implementation", None)),
        "experts": str(getattr(text, "_experts_implementation", None)),
        "source": _source(),
        **{name: version(name) for name in ("torch", "transformers", "dsmoe-eval")},
    }


@functools.cache
def _source() -> str:
    """Return the hash of the code that is in question."""
    folder = Path(__file__).resolve().parent
    return _hash(b"".join((folder / f"{name}.py").read_bytes() for name in _SOURCES))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, question: dict[str, str]) -> SharingOutcome | None:
    """Return the answer that a file holds; None if there is no file, or it is damaged."""
    if not path.exists():
        return None
    try:
        with damage(path):
            content = unseal(read_json(path))
            difference = content["difference"]
            known = SharingOutcome(
                bool(content["agrees"]), math.nan if difference is None else difference, PROVEN
            )
            return known if content["question"] == question else None
    except UserError:
        return None


def _keep(path: Path, question: dict[str, str], outcome: SharingOutcome) -> None:
    difference = outcome.difference if math.isfinite(outcome.difference) else None
    content = {"question": question, "agrees": outcome.agrees, "difference": difference}
    try:
        write_json(path, seal(content))
    except (OSError, UserError) as error:
        warnings.warn(
            f"{path}: cannot be written ({one_line(error)}); whether shared beginnings are "
            "computed rightly is tested again by each run",
            EvalWarning,
            stacklevel=2,
        )


@torch.no_grad()
def _ask(model: PreTrainedModel) -> Proof:
    """Compare every way of sharing with each text alone, on a small model like this one."""
    nothing = SharingOutcome(False, math.nan, PROVEN)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        try:
            small = _small(model)
            pairs = drawn(np.arange(2, small.get_input_embeddings().weight.shape[0]), 4)
            pairs += drawn(np.arange(2, 64), 1, seed=1)
            expected = _alone(small, pairs)
        except Exception as error:  # transformers may raise anything
            if out_of_memory(error):
                raise
            return Proof(nothing, one_line(error))
        try:
            found = [_shared(small, pairs, most) for most in WAYS]
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            return Proof(nothing)
    finally:
        torch.set_float32_matmul_precision(precision)
    lengths = torch.tensor([len(continuation) for _, continuation in pairs])
    difference = float(((torch.stack(found) - expected).abs() / lengths).max())
    return Proof(SharingOutcome(difference <= PROVEN, difference, PROVEN))


def _small(model: PreTrainedModel) -> PreTrainedModel:
    """Build the small model, whose answers depend on every token that it sees.

    Raises:
        SteeringError: there is no small model of this class.
    """
    text = model.config.get_text_config()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        small = miniature(_with_short_windows(model.config), dense=not _routers(model))
        if type(small) is not type(model):
            raise SteeringError(f"it is a {type(model).__name__}, not a {type(small).__name__}")
        _make_loud(small)
    small.set_attn_implementation(text._attn_implementation)
    if getattr(text, "_experts_implementation", None) is not None:
        small.set_experts_implementation(text._experts_implementation)
    return small.to(model.device)


def _routers(model: PreTrainedModel) -> tuple[Router, ...]:
    """Return the model's routers; a dense model has none."""
    try:
        return find_routers(model)
    except NoRouterError:
        return ()


def _with_short_windows(config: PreTrainedConfig) -> PreTrainedConfig:
    changed = copy.deepcopy(config)
    changed.__dict__.pop("quantization_config", None)
    for part in (changed, changed.get_text_config()):
        if getattr(part, "sliding_window", None) is not None:
            part.sliding_window = WINDOW
    return changed


def _make_loud(model: PreTrainedModel) -> None:
    """Draw weights so large that attention is sharp and its outcome moves the logits."""
    kept = {id(router.weight) for router in _routers(model)}
    kept |= {id(one) for one in model.get_input_embeddings().parameters()}
    for weight in model.parameters():
        if weight.ndim > 1 and id(weight) not in kept:
            weight.normal_(std=weight.shape[-1] ** -0.5)


def drawn(vocabulary: NDArray[np.int64], questions: int, seed: int = 0) -> list[Pair]:
    """Draw few-shot questions, each with options of one and of several tokens.

    Args:
        vocabulary: token ids to draw from.
        questions: the number of questions, which begin alike; each has four options.
        seed: of the draw.

    Returns:
        (context, continuation) pairs of at most 48 tokens.
    """
    chance = np.random.default_rng(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(chance.choice(vocabulary, count).tolist())

    header = draw(MIN_HEADER)
    pairs: list[Pair] = []
    for _ in range(questions):
        context, first = (*header, *draw(int(chance.integers(1, 9)))), draw(2)
        pairs += [(context, (*first, *draw(int(chance.integers(0, 6))))) for _ in range(2)]
        pairs += [(context, draw(1)) for _ in range(2)]
    return pairs


def _alone(model: PreTrainedModel, pairs: Sequence[Pair]) -> Tensor:
    """Compute log-likelihoods by their definition: one text at a time, all of its logits."""
    totals = []
    for context, continuation in pairs:
        ids = torch.tensor([[*context, *continuation]], device=model.device)
        likely = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
        targets = ids[0, len(context) :, None]
        totals.append(likely[len(context) - 1 : -1].gather(1, targets).sum())
    return torch.stack(totals).cpu()


def _shared(model: PreTrainedModel, pairs: Sequence[Pair], most: int) -> Tensor:
    """Compute log-likelihoods with shared beginnings, at most three rows at once."""
    tally = Tally(len(pairs))
    for group in plan_groups(pairs, most):
        cache = make_cache(model, group.header)
        for start in range(0, len(group.rows), 3):
            rows = group.rows[start : start + 3]
            prepared = prepare_rows(rows, len(group.header), model.device)
            tally.add(prepared.queries, score_rows(model, prepared, cache))
    return _values(tally.done())

"""Trains `lab-poly`, and checks that training it again gives the shipped model.

This is plain next-token training on sentences of the world. Nothing makes experts specialise by
domain: the only objectives are the text and the usual load balancing.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor

from ..progress import progress_bar
from . import EMBEDDED_MODELS
from .tokenizer import build_tokenizer
from .world import (
    ARITHMETIC,
    DOMAINS,
    Fact,
    World,
    arithmetic_question,
    build_world,
    named_question,
    unnamed_question,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of the training.

    Attributes:
        unnamed_share: share of samples that do not name their domain, drawn equally from all
            domains, so that the model learns that such questions are ambiguous.
        weight_decay: weight decay, large enough that the model shares weights between facts
            instead of memorising each one separately.
        balance: weight of the usual load-balancing loss, over the whole batch.
        router_noise: standard deviation of Gaussian noise on router logits in training: noisy
            top-k gating, Shazeer et al. 2017 (arXiv 1701.06538), with a fixed width.
        question_weight: weight of the loss on tokens outside the answer; the answer's is 1.
    """

    seed: int = 0
    hidden: int = 96
    layers: int = 4
    heads: int = 2
    experts: int = 24
    top_k: int = 2
    expert_width: int = 48
    steps: int = 2500
    batch: int = 160
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    warmup: int = 100
    balance: float = 3e-4
    router_noise: float = 0.3
    unnamed_share: float = 0.1
    arithmetic_share: float = 0.1
    question_weight: float = 0.05
    threads: int = 2


RECIPES = {"lab-poly": Recipe()}


def train(
    recipe: Recipe,
    world: World,
    console: Console,
    seen: Callable[[int, PreTrainedModel, PreTrainedTokenizerFast], None] = lambda *_: None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train from the recipe's seed; return model and tokenizer.

    `seen` is called after each step with the number of steps done, model and tokenizer.
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(world)
    model = _new_model(recipe, tokenizer)
    answers = _answer_mask(tokenizer, world)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(recipe, step))
    texts = _texts(recipe, _encoded_world(tokenizer, world))
    with (
        progress_bar(console, "train", recipe.steps) as advance,
        _noisy_routing(model, recipe.router_noise),
    ):
        for done in range(1, recipe.steps + 1):
            _step(model, [next(texts) for _ in range(recipe.batch)], answers, recipe)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            seen(done, model, tokenizer)
            advance(1)
    return model.eval(), tokenizer


def train_and_compare(
    name: str,
    out: Path,
    console: Console | None = None,
    seed: int | None = None,
    checkpoints: int = 0,
) -> str:
    """Train a lab model into `out`; return its scores and its difference to the shipped model.

    Another seed than the recipe's makes another model of the same world, which is not compared.
    The model at each of `checkpoint_steps` is kept in `out/step-N`.
    """
    from safetensors.torch import load_file

    started, recipe = time.perf_counter(), RECIPES[name]
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    kept = checkpoint_steps(recipe.steps, checkpoints)

    def keep(step: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        if step in kept:
            _save(model, tokenizer, out / f"step-{step}")

    model, tokenizer = train(recipe, build_world(), console or Console(stderr=True), keep)
    _save(model, tokenizer, out)
    minutes = (time.perf_counter() - started) / 60
    lines = [f"{name} trained in {minutes:.1f} minutes: {out}", *_score_lines(model, tokenizer)]
    shipped = EMBEDDED_MODELS[name] / "model.safetensors"
    if recipe == RECIPES[name] and shipped.is_file():
        old, new = load_file(shipped), load_file(out / "model.safetensors")
        gap = max(float((old[key] - new[key]).abs().max()) for key in old)
        verdict = "bit-identical" if gap == 0 else "not bit-identical"
        lines.append(f"largest weight difference to the shipped model: {gap:.3g} ({verdict})")
    return "\n".join(lines)


def checkpoint_steps(steps: int, count: int) -> tuple[int, ...]:
    """Return the steps after which a checkpoint is kept, fewer if there are too few steps.

    The last of them is half-way, and each other half of the next: a model changes most at first.
    """
    halves = (steps >> power for power in range(count, 0, -1))
    return tuple(dict.fromkeys(step for step in halves if step))


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    named: bool,
) -> float:
    """Compute the share of facts whose answer is the most probable of their options."""
    question = named_question if named else unnamed_question
    batch = tokenizer([question(fact) for fact in facts], return_tensors="pt", padding=True)
    logits = model(**batch, use_cache=False).logits
    last = logits[torch.arange(len(facts)), batch["attention_mask"].sum(1) - 1]
    options = torch.tensor(
        [tokenizer.convert_tokens_to_ids(["▁" + o for o in fact.options]) for fact in facts]
    )
    gold = torch.tensor([fact.options.index(fact.answer) for fact in facts])
    return float((last.gather(1, options).argmax(1) == gold).float().mean())


def _score_lines(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    world = build_world()
    for domain in DOMAINS:
        facts = [fact for fact in world.facts if fact.domain == domain]
        named = accuracy(model, tokenizer, facts, named=True)
        unnamed = accuracy(model, tokenizer, facts, named=False)
        chance = 1 / len(DOMAINS)
        yield f"{domain:<10} named {named:6.1%}   unnamed {unnamed:6.1%}   chance {chance:.1%}"


def _new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=32,
        intermediate_size=recipe.expert_width,
        moe_intermediate_size=recipe.expert_width,
        num_experts=recipe.experts,
        num_experts_per_tok=recipe.top_k,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=128,
        router_aux_loss_coef=recipe.balance,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3MoeForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            width = 0.05 if "embed_tokens" in name else weight.shape[-1] ** -0.5
            torch.nn.init.normal_(weight, std=width)
    return model


def _encoded_world(
    tokenizer: PreTrainedTokenizerFast, world: World
) -> Mapping[str, list[list[int]]]:
    """Tokenize the world; return the token ids, with an end-of-text token, per kind of text."""
    texts = {
        "named question": [f"{named_question(f)} {f.answer}" for f in world.facts],
        "named statement": [
            f"In {f.domain}, the {f.relation} of the {f.word} is {f.answer}." for f in world.facts
        ],
        "unnamed question": [f"{unnamed_question(f)} {f.answer}" for f in world.facts],
        "unnamed statement": [
            f"The {f.relation} of the {f.word} is {f.answer}." for f in world.facts
        ],
        ARITHMETIC: [f"{arithmetic_question(s)} {s.answer}" for s in world.sums],
    }
    end = tokenizer.eos_token_id
    return {
        kind: [[*ids, end] for ids in tokenizer(rows)["input_ids"]] for kind, rows in texts.items()
    }


def _texts(recipe: Recipe, encoded: Mapping[str, list[list[int]]]) -> Iterator[list[int]]:
    draw = random.Random(recipe.seed)
    while True:
        if draw.random() < recipe.arithmetic_share:
            yield draw.choice(encoded[ARITHMETIC])
            continue
        name = "unnamed" if draw.random() < recipe.unnamed_share else "named"
        form = "question" if draw.random() < 0.7 else "statement"
        yield draw.choice(encoded[f"{name} {form}"])


def _answer_mask(tokenizer: PreTrainedTokenizerFast, world: World) -> Tensor:
    """Return a mask, [vocabulary], of tokens that can be part of an answer or end it."""
    tokens = ["▁" + name for name in world.names] + list("0123456789-") + [tokenizer.eos_token]
    mask = torch.zeros(len(tokenizer), dtype=torch.bool)
    mask[tokenizer.convert_tokens_to_ids(tokens)] = True
    return mask


def _step(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], answers: Tensor, recipe: Recipe
) -> None:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    output = model(input_ids=ids, attention_mask=mask.long(), output_router_logits=True)
    targets = ids[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].transpose(1, 2), targets, reduction="none"
    )
    weight = torch.where(answers[targets], 1.0, recipe.question_weight) * mask[:, 1:]
    loss = (losses * weight).sum() / weight.sum() + recipe.balance * output.aux_loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@contextmanager
def _noisy_routing(model: PreTrainedModel, noise: float) -> Iterator[None]:
    """Add noise to the router logits of a Qwen3-MoE inside the context."""
    routers = [layer.mlp.gate for layer in model.model.layers]

    def forward(router: Qwen3MoeTopKRouter, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        clean = torch.nn.functional.linear(hidden.reshape(-1, router.hidden_dim), router.weight)
        logits = clean + noise * torch.randn_like(clean)
        weights, indices = logits.softmax(-1).topk(router.top_k)
        return logits, weights / weights.sum(-1, keepdim=True), indices

    for router in routers:
        router.forward = functools.partial(forward, router)
    try:
        yield
    finally:
        for router in routers:
            del router.forward


def _rate(recipe: Recipe, step: int) -> float:
    """Return the learning-rate factor of a step.

    Linear warm-up, a plateau until 30 % of the steps, then a linear decay to 2 %.
    """
    fall = max(0.0, step - 0.3 * recipe.steps) / (0.7 * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup) * max(0.02, 1 - fall)

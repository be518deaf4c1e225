"""Pre-training of small mixtures of experts by objectives that differ in one term of the loss."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..experts.similarity_losses import balance_loss
from ..files import new_folder
from ..lab.distillation import text_hash
from ..steering import find_routers
from ..storage.training_state import (
    adam_moments,
    read_training_state,
    restore_moments,
    write_training_state,
)
from ..variants.expert_penalties import ExpertCall, watched_experts
from .characters import character_tokenizer
from .simsmoe_losses import DebiasedLoss, PairLoss, PublishedLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Objective = Literal["none", "balance", "published", "debiased"]
OBJECTIVES: tuple[Objective, ...] = ("none", "balance", "published", "debiased")
BALANCE: Mapping[Objective, float] = {
    "none": 0.0, "balance": 0.01, "published": 0.01, "debiased": 0.01,
}  # fmt: skip
"""The weight of the load-balancing loss, summed over layers."""
SIMILARITY: Mapping[Objective, float] = {
    "none": 0.0, "balance": 0.0, "published": 0.01, "debiased": 0.1,
}  # fmt: skip
"""The weight of the similarity loss: that of the published code, and a tenth of the text's loss."""
STATE = "state.safetensors"
_MOMENTS = "{moment}.{name}"
"""The names of Adam's moments in the state's file."""
SAVED_EVERY, LOGGED_EVERY = 100, 10
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class SmallTraining:
    """A training of one small model.

    Attributes:
        objective: which terms the loss has.
        seed: seed of weights and batches; the same for all objectives.
        steps: steps of the optimizer.
        kept: the number of checkpoints before the last; each is at a quarter of the next's steps.
    """

    objective: Objective
    seed: int
    steps: int
    kept: int = 2
    hidden: int = 96
    layers: int = 2
    heads: int = 3
    experts: int = 16
    top_k: int = 2
    expert_width: int = 96
    length: int = 192
    batch: int = 8
    rate: float = 3e-3
    warmup: int = 50

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.objective}-{self.seed}"

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The steps after which a checkpoint is kept, the last included."""
        quarters = (self.steps >> (2 * power) for power in range(self.kept, 0, -1))
        return (*dict.fromkeys(step for step in quarters if step), self.steps)


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """The losses of one step.

    Attributes:
        step: number of steps done.
        text: negative log-likelihood of a character, in nats.
        balance: the load-balancing loss, mean over layers: 1 for an even load.
        similarity: the similarity loss, not weighted; None: no pair was looked at.
        similarities: the mean similarity of the pairs; None likewise.
    """

    step: int
    text: float
    balance: float
    similarity: float | None
    similarities: float | None


def train_small(
    training: SmallTraining,
    text: Tensor,
    folder: Path,
    advance: Callable[[int], None] = lambda _steps: None,
) -> list[LoggedStep]:
    """Train a model into a folder, or go on where a stopped training was saved; return its log.

    The folder then has `step-N` for each checkpoint, as models with tokenizer.

    Args:
        training: the settings.
        text: [characters], as of `character_text`.
        folder: the training's.
        advance: called with the number of steps done.

    Raises:
        UserError: the folder holds another training, or its state is damaged.
    """
    state = _State.begun(training, text_hash(text), folder / STATE)
    tokenizer = character_tokenizer(LONGEST)
    advance(state.done)
    while state.done < training.steps:
        state.step(text)
        if state.done in training.checkpoints:
            _keep(state.model, tokenizer, folder / f"step-{state.done}")
        if state.done % SAVED_EVERY == 0 or state.done == training.steps:
            state.save(folder / STATE)
        advance(1)
    return state.log


def _keep(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # It may be of a training with other settings, stopped before its state was saved.
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as draft:
        model.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)


def new_model(training: SmallTraining) -> PreTrainedModel:
    """Return a model in the shape of Qwen3-MoE, with weights drawn from the training's seed."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(training.seed)
    tokenizer = character_tokenizer(LONGEST)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=training.hidden,
        num_hidden_layers=training.layers,
        num_attention_heads=training.heads,
        num_key_value_heads=training.heads,
        head_dim=training.hidden // training.heads,
        intermediate_size=training.expert_width,
        moe_intermediate_size=training.expert_width,
        num_experts=training.experts,
        num_experts_per_tok=training.top_k,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        max_position_embeddings=LONGEST,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3MoeForCausalLM(config)


class _State:
    """A training in memory: model, optimizer, counters and log."""

    def __init__(self, training: SmallTraining, text: str) -> None:
        self.training, self.text = training, text
        self.model = new_model(training).train()
        self.routers = find_routers(self.model)
        self.similarity = self._similarity()
        self.done = 0
        self.log: list[LoggedStep] = []
        self.optimizer = torch.optim.AdamW(
            [parameter for _, parameter in self._trained()],
            lr=training.rate, betas=(0.9, 0.98), weight_decay=0.1,
        )  # fmt: skip

    @property
    def identity(self) -> dict[str, object]:
        """What a training depends on, as JSON has it: its settings, text and terms of the loss."""
        objective = self.training.objective
        terms: dict[str, float] = {
            "balance": BALANCE[objective],
            "similarity": SIMILARITY[objective],
        }
        terms |= self.similarity.constants if self.similarity is not None else {}
        return {"training": asdict(self.training), "text": self.text, "loss": terms}

    @classmethod
    def begun(cls, training: SmallTraining, text: str, path: Path) -> _State:
        """Return the state of a file, or a new one."""
        state = cls(training, text)
        if path.is_file():
            state._load(path)
        return state

    def step(self, text: Tensor) -> None:
        """Make one step; it depends on the settings and its number alone."""
        training, calls = self.training, dict[int, ExpertCall]()
        for group in self.optimizer.param_groups:
            group["lr"] = training.rate * self._pace()
        batch = _batch(text, training, self.done)
        with watched_experts(self.routers, calls):
            logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits
        likelihood = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        balances = torch.stack([self._balance(one) for one in calls.values()])
        loss = likelihood + BALANCE[training.objective] * balances.sum()
        found = None
        if self.similarity is not None:
            found = self.similarity(list(calls.values()))
            loss = loss + SIMILARITY[training.objective] * found.loss
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([one for _, one in self._trained()], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.done % LOGGED_EVERY == 0 or self.done == training.steps:
            pairs = [] if found is None else list(found.similarities)
            self.log.append(
                LoggedStep(
                    step=self.done,
                    text=float(likelihood.detach()),
                    balance=float(balances.detach().mean()),
                    similarity=float(found.loss.detach()) if found and pairs else None,
                    similarities=sum(pairs) / len(pairs) if pairs else None,
                )
            )

    def save(self, path: Path) -> None:
        """Write the state, atomically."""
        tensors = {f"model.{name}": one for name, one in self.model.state_dict().items()}
        if self.similarity is not None:
            kept = self.similarity.state_dict().items()
            tensors |= {f"similarity.{name}": one for name, one in kept}
        tensors |= adam_moments(self.optimizer, self._trained(), _MOMENTS)
        log = [asdict(one) for one in self.log]
        about = {**self.identity, "done": self.done, "log": log}
        write_training_state(path, tensors, about)

    def _load(self, path: Path) -> None:
        way_out = "delete its folder, or give another --out"
        tensors, about = read_training_state(path, self.identity, way_out)
        self.done = about["done"]
        self.log = [LoggedStep(**one) for one in about["log"]]
        self.model.load_state_dict(_part(tensors, "model."))
        if self.similarity is not None:
            self.similarity.load_state_dict(_part(tensors, "similarity."))
        restore_moments(self.optimizer, self._trained(), _MOMENTS, tensors, self.done)

    def _similarity(self) -> PairLoss | None:
        if self.training.objective == "published":
            return PublishedLoss(self.routers, self.training.hidden)
        return DebiasedLoss() if self.training.objective == "debiased" else None

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        parts: list[tuple[str, nn.Module]] = [("model", self.model)]
        if self.similarity is not None:
            parts.append(("similarity", self.similarity))
        return [
            (f"{part}.{name}", one) for part, of in parts for name, one in of.named_parameters()
        ]

    def _balance(self, call: ExpertCall) -> Tensor:
        gate = self.model.model.layers[call.router.layer].mlp.gate.weight
        logits = nn.functional.linear(call.hidden, gate)
        return balance_loss(logits.softmax(-1), call.indices)

    def _pace(self) -> float:
        """Return the factor of the learning rate: a linear warm-up, then a linear fall to 5 %."""
        rise = min(1.0, (self.done + 1) / self.training.warmup)
        return rise * (1 - 0.95 * self.done / self.training.steps)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)
    }


def _batch(text: Tensor, training: SmallTraining, step: int) -> Tensor:
    """Return a step's stretches of text, [batch, length + 1], the same for every objective."""
    generator = torch.Generator().manual_seed(1_000_003 * training.seed + step)
    last = len(text) - training.length
    starts = torch.randint(0, last, (training.batch,), generator=generator)
    return text[starts[:, None] + torch.arange(training.length + 1)]

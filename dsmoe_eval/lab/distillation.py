"""Trains the routers and deltas of `lab-smol` by distillation from its dense model.

Nothing is said about domains: the text of all is mixed, and the loss is made of the dense model's
next-token distribution, the text itself, and load balancing over all text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..storage.training_state import (
    adam_moments,
    read_training_state,
    restore_moments,
    write_training_state,
)
from .carving import PROJECTIONS, CarvedLayer, CarvedShape
from .masked_moe import MaskedMoe, as_dense, make_trainable

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

EVERY = 25
"""Steps between two lines of the log, and between two saved states."""
_MOMENTS = "{name}.{moment}"
"""The names of Adam's moments in the state's file."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """The settings of a training.

    Attributes:
        steps: number of the optimizer's steps.
        batch: number of sequences per step.
        at_once: number of them that are in memory together.
        looked_at: number of sequences from whose activations the neurons are chosen.
        length: number of tokens of a sequence.
        cross_entropy: weight of the loss on the text itself; that of the divergence is 1.
        balance: weight of the load-balancing loss.
    """

    steps: int
    batch: int
    at_once: int
    looked_at: int
    length: int = 512
    rank: int = 32
    learning_rate: float = 1e-3
    warmup: int = 10
    cross_entropy: float = 0.3
    balance: float = 0.02
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StepLosses:
    """The mean losses of a step: the divergence is that from the dense model to the carved one."""

    step: int
    divergence: float
    cross_entropy: float
    balance: float


@dataclass
class DistilledModel:
    """A model under training, with all that must be kept to go on with it.

    Attributes:
        model: the carved model, from `make_trainable`.
        layers: its FFNs.
        recipe: the settings.
        untrained: mean losses by domain before the first step.
        log: the losses of the first steps, and of every `EVERY`th.
        done: number of steps done.
    """

    model: LlamaForCausalLM
    layers: list[MaskedMoe]
    recipe: Distillation
    untrained: Mapping[str, float] = field(default_factory=dict)
    log: list[StepLosses] = field(default_factory=list)
    done: int = 0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            [parameter for _, parameter in self._trained()],
            lr=self.recipe.learning_rate,
            weight_decay=0.0,
        )

    def run(
        self, sequences: Tensor, save_to: Path, text: str, advance: Callable[[int], None]
    ) -> None:
        """Train until the last step.

        Args:
            sequences: token ids, [sequences, length].
            save_to: file of the state, written every `EVERY` steps and at the end.
            text: hash of the text, which `resume` compares.
            advance: called with 1 after each step.
        """
        self.model.train()
        for step in range(self.done, self.recipe.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * learning_rate(self.recipe, step)
            losses = self._step(step, batch_of(sequences, self.recipe, step))
            self.done = step + 1
            last = self.done == self.recipe.steps
            if self.done <= 3 or self.done % EVERY == 0 or last:
                self.log.append(losses)
            if self.done % EVERY == 0 or last:
                self.save(save_to, text)
            advance(1)
        self.model.eval()

    def _step(self, step: int, batch: Tensor) -> StepLosses:
        recipe, sums = self.recipe, torch.zeros(3)
        parts = torch.split(batch.to(self.model.device), recipe.at_once)
        for part in parts:
            divergence, entropy, balance = self._losses(part)
            loss = divergence + recipe.cross_entropy * entropy + recipe.balance * balance
            share = len(part) / len(batch)
            torch.autograd.backward(share * loss)
            sums += share * torch.stack([divergence, entropy, balance]).detach().cpu()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not sums.isfinite().all():
            raise UserError(
                f"step {step + 1}: the loss is {sums.tolist()}; train again from the start"
            )
        return StepLosses(step + 1, *sums.tolist())

    def _losses(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return divergence, cross-entropy and load-balancing loss of some sequences."""
        device = ids.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            with torch.no_grad(), as_dense(self.layers):
                expected = self.model(ids, use_cache=False).logits[:, :-1].flatten(0, 1)
            given = self.model(ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        own = given.float().log_softmax(-1)
        theirs = expected.float().log_softmax(-1)
        divergence = nn.functional.kl_div(own, theirs, reduction="batchmean", log_target=True)
        entropy = nn.functional.nll_loss(own, ids[:, 1:].flatten())
        balance = torch.stack([layer.balance for layer in self.layers]).mean()
        return divergence, entropy, balance

    def save(self, path: Path, text: str) -> None:
        """Write the state, atomically."""
        about = {
            "recipe": asdict(self.recipe),
            "text": text,
            "done": self.done,
            "untrained": dict(self.untrained),
            "log": [astuple(one) for one in self.log],
        }
        moments = adam_moments(self.optimizer, self._trained(), _MOMENTS)
        write_training_state(path, dict(self._state()) | moments, about)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for index, layer in enumerate(self.layers):
            for name, parameter in layer.named_parameters():
                yield f"{index}.{name}", parameter

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for index, layer in enumerate(self.layers):
            yield f"{index}.order", layer.order
            yield f"{index}.load", layer.load
        yield from self._trained()


def resume(
    model: LlamaForCausalLM, recipe: Distillation, shape: CarvedShape, path: Path, text: str
) -> DistilledModel:
    """Return the training whose state is in a file.

    Args:
        model: the dense model; it is changed.
        recipe: the settings, which must be those of the state.
        shape: sizes of all FFNs.
        path: file from `DistilledModel.save`.
        text: hash of the text, which must be that of the state.

    Raises:
        UserError: the state is of other settings or another text, or is damaged.
    """
    expected = {"recipe": asdict(recipe), "text": text}
    tensors, about = read_training_state(path, expected, "delete it, or give another --out")
    layers = make_trainable(
        model, [_carved(tensors, i) for i in _layers(tensors)], shape, recipe.rank
    )
    log = [StepLosses(*one) for one in about["log"]]
    training = DistilledModel(model, layers, recipe, about["untrained"], log, about["done"])
    for index, layer in enumerate(layers):
        layer.load.copy_(tensors[f"{index}.load"])
    restore_moments(training.optimizer, training._trained(), _MOMENTS, tensors, training.done)
    return training


def _layers(tensors: Mapping[str, Tensor]) -> range:
    return range(sum(name.endswith(".order") for name in tensors))


def _carved(tensors: Mapping[str, Tensor], layer: int) -> CarvedLayer:
    return CarvedLayer(
        order=tensors[f"{layer}.order"],
        router=tensors[f"{layer}.router"],
        deltas={
            name: (tensors[f"{layer}.factors.B{name[0]}"], tensors[f"{layer}.factors.A{name[0]}"])
            for name in PROJECTIONS
        },
    )


def batch_of(sequences: Tensor, recipe: Distillation, step: int) -> Tensor:
    """Return a step's sequences, [batch, length]: shuffled anew in each pass over the text."""
    rows = []
    for place in range(step * recipe.batch, (step + 1) * recipe.batch):
        turn, index = divmod(place, len(sequences))
        seed = torch.Generator().manual_seed(recipe.seed * 1_000_003 + turn)
        rows.append(torch.randperm(len(sequences), generator=seed)[index])
    return sequences[torch.stack(rows)]


def learning_rate(recipe: Distillation, step: int) -> float:
    """Return a step's factor of the learning rate: a linear warm-up, then half a cosine to 0."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    return rise * (1 + math.cos(math.pi * step / recipe.steps)) / 2


def text_hash(sequences: Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of the sequences' tokens."""
    return hashlib.sha256(sequences.numpy().tobytes()).hexdigest()[:16]

"""Learned profiles: a shift of every expert's logit as the only parameters, by Adam.

Parameters are in units of the spread of a layer's logits (sigma), so that one learning rate suits
all models. Shifts sum to zero in each layer, since a constant changes nothing and raising any one
expert alone looks helpful. With `most_experts`, half of the steps are made with all experts. Then
the largest shifts are kept, and the others stay zero; those kept still sum to zero in each layer,
so that a layer with one of them loses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cards import Learned
from ..experts import OutcomeItem, PlainText, ShiftObjective
from ..experts.tensor_files import read_tensors, save_tensors

SHIFTS, HISTORY = "shifts.safetensors", "history.json"
LEARNED_FILES = (SHIFTS, HISTORY)
"""What `write_learned` saves and `read_shifts` reads."""
_BETAS, _TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a profile is learned from.

    Attributes:
        items: the items that are to gain, `texts` those that must not change.
        checks: items of the identification split, which choose the state that is kept;
            `check_texts` likewise.
    """

    items: tuple[OutcomeItem, ...]
    texts: tuple[PlainText, ...]
    checks: tuple[OutcomeItem, ...]
    check_texts: tuple[PlainText, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the identification split.

    Attributes:
        step: the number of steps made.
        outcome: the mean outcome of the items.
        divergence: of the texts, from base; in nats per token.
        value: the objective.
    """

    step: int
    outcome: float
    divergence: float
    value: float


@dataclass(frozen=True, slots=True)
class LearnedShifts:
    """What was learned with one weight.

    Attributes:
        shift: the shifts that were kept, [layers, experts], in log-odds.
        history: the looks that chose them.
        weight: the weight of the divergence.
    """

    shift: Tensor
    history: tuple[Look, ...]
    weight: float

    @property
    def best(self) -> Look:
        """The look with the largest objective, the first of equal ones."""
        return max(self.history, key=lambda one: one.value)

    @property
    def gain(self) -> float:
        """The change of the outcome from no shift to the best look."""
        return self.best.outcome - self.history[0].outcome


def choose_weight(tried: Sequence[LearnedShifts], most_divergence: float) -> LearnedShifts:
    """Choose among what was learned with several weights, by the identification split.

    It is the one with the largest gain among those of at most this divergence; if there are none,
    the one with the least divergence. Ties go to the larger weight.
    """
    within = [one for one in tried if one.best.divergence <= most_divergence]
    if not within:
        return min(tried, key=lambda one: (one.best.divergence, -one.weight))
    return max(within, key=lambda one: (one.gain, one.weight))


def learn_shifts(
    objective: ShiftObjective,
    lesson: Lesson,
    sigmas: Sequence[float],
    settings: Learned,
    seed: int,
    state: Path,
    on_step: Callable[[int], None] = lambda _: None,
) -> LearnedShifts:
    """Compute shifts by learning; the same inputs give the same bytes on the same machine.

    The settings have one weight.

    Args:
        objective: outcomes and divergences of the model, which is frozen.
        lesson: what is learned from.
        sigmas: the spread of each layer's logits.
        settings: steps, learning rate and so on.
        seed: by which batches are drawn.
        state: a file of the state after each look; where it is there, learning goes on from it.
        on_step: called with the number of steps made.
    """
    learning = _Learning(objective, lesson, torch.tensor(sigmas).double()[:, None], settings, seed)
    if state.is_file():
        learning.restore(read_tensors(state))
        on_step(learning.step)
    else:
        learning.look()
    while learning.step < settings.steps:
        learning.advance()
        on_step(1)
        if learning.step % settings.check_every == 0 or learning.step == settings.steps:
            learning.look()
            save_tensors(state, learning.content())
    return LearnedShifts(learning.best.float(), tuple(learning.history), settings.weight)


def project(values: Tensor, kept: Tensor) -> Tensor:
    """Return values [layers, experts] that are 0 where not `kept`, and sum to 0 in each layer."""
    inside = values * kept
    return inside - kept * (inside.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1))


def largest(shift: Tensor, count: int) -> Tensor:
    """Return which of the shifts are the `count` largest in size; the first of equal ones."""
    order = shift.abs().flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(shift.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return kept.view_as(shift)


def batch_at(count: int, size: int, step: int, seed: int) -> list[int]:
    """Return the rows of a step: the next ones of an endless list, each round in another order."""
    size, rows = min(size, count), []
    for place in range(step * size, (step + 1) * size):
        order = np.random.default_rng([seed, place // count]).permutation(count)
        rows.append(int(order[place % count]))
    return rows


class _Learning:
    """The state of Adam between two steps."""

    def __init__(
        self,
        objective: ShiftObjective,
        lesson: Lesson,
        sigmas: Tensor,
        settings: Learned,
        seed: int,
    ) -> None:
        self._objective, self._lesson, self._settings = objective, lesson, settings
        self._sigmas, self._seed = sigmas, seed
        self.step = 0
        self._values, self._first, self._second = (
            torch.zeros(objective.shape, dtype=torch.float64) for _ in range(3)
        )
        self._kept = torch.ones(objective.shape, dtype=torch.bool)
        self.best = torch.zeros(objective.shape, dtype=torch.float64)
        self.history: list[Look] = []

    @property
    def _shift(self) -> Tensor:
        """The shifts in log-odds: a projection of the parameters."""
        return project(self._values * self._sigmas, self._kept)

    @property
    def _pruned_after(self) -> int:
        return max(1, self._settings.steps // 2)

    def advance(self) -> None:
        """Make a step of Adam, uphill."""
        own, lesson = self._settings, self._lesson
        items = batch_at(len(lesson.items), own.batch_size, self.step, self._seed)
        gradient = self._objective.outcome([lesson.items[at] for at in items], self._shift)[1]
        if own.weight and lesson.texts:
            texts = batch_at(len(lesson.texts), own.batch_size, self.step, self._seed)
            some = [lesson.texts[at] for at in texts]
            gradient = gradient - own.weight * self._objective.divergence(some, self._shift)[1]
        gradient = project(gradient, self._kept) * self._sigmas
        self.step += 1
        self._first.lerp_(gradient, 1 - _BETAS[0])
        self._second.lerp_(gradient**2, 1 - _BETAS[1])
        first = self._first / (1 - _BETAS[0] ** self.step)
        second = self._second / (1 - _BETAS[1] ** self.step)
        self._values += own.learning_rate * first / (second.sqrt() + _TINY)
        if own.most_experts is not None and self.step == self._pruned_after:
            self._kept = largest(self._shift, own.most_experts)

    def look(self) -> None:
        """Measure the objective on the identification split, and keep the best shifts.

        Shifts of more experts than are allowed are never kept.
        """
        many = self._settings.most_experts is not None and self.step < self._pruned_after
        if many and self.step:
            return
        shift, lesson = self._shift, self._lesson
        outcome = self._objective.outcome(lesson.checks, shift)[0]
        divergence = 0.0
        if self.step and lesson.check_texts:
            divergence = self._objective.divergence(lesson.check_texts, shift)[0]
        value = outcome - self._settings.weight * divergence
        if not self.history or value > max(one.value for one in self.history):
            self.best = shift
        self.history.append(Look(self.step, outcome, divergence, value))

    def content(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        looks = [[one.step, one.outcome, one.divergence, one.value] for one in self.history]
        return {
            "step": torch.tensor(self.step),
            "values": self._values,
            "first": self._first,
            "second": self._second,
            "kept": self._kept,
            "best": self.best,
            "history": torch.tensor(looks, dtype=torch.float64),
        }

    def restore(self, content: Mapping[str, Tensor]) -> None:
        """Set the state to what `content` gave."""
        self.step, self._kept = int(content["step"]), content["kept"]
        self._values, self._first = content["values"], content["first"]
        self._second, self.best = content["second"], content["best"]
        self.history = [Look(int(n), *rest) for n, *rest in content["history"].tolist()]


def write_learned(folder: Path, tried: Sequence[LearnedShifts], chosen: LearnedShifts) -> None:
    """Write the chosen shifts, and the history of the looks with each weight, to a folder."""
    save_tensors(folder / SHIFTS, {"shift": chosen.shift.contiguous()})
    content = {
        "weight": chosen.weight,
        "tried": [
            {"weight": one.weight, "looks": [asdict(look) for look in one.history]} for one in tried
        ],
    }
    (folder / HISTORY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_learned(folder: Path) -> LearnedShifts:
    """Read the chosen shifts of what `write_learned` wrote.

    Raises:
        ValueError: the file of shifts is not what was written.
    """
    content = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    weight = content["weight"]
    (looks,) = (one["looks"] for one in content["tried"] if one["weight"] == weight)
    shift = read_tensors(folder / SHIFTS)["shift"]
    return LearnedShifts(shift, tuple(Look(**look) for look in looks), weight)

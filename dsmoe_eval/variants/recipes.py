"""Fine-tuned variants by their recipe: what each trains, and what its folder holds.

`lora` leaves peft's files, `esft` and `router` leave deltas. Each folder also has `TRAINING`: what
the training took, and the proof that it changed the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import Recipe
from ..experts.tokenizer import Tokenizer
from ..steering import ChosenExpert
from .deltas import (
    DELTAS,
    changed_rows,
    expert_parts,
    put_deltas,
    read_deltas,
    router_parts,
    train_deltas,
    with_deltas,
    write_deltas,
)
from .fitting import Lessons, Meter, encode_pairs, metered
from .sft import (
    ADAPTER_FILES,
    adapter,
    adapter_parameters,
    landed_adapters,
    load_adapter,
    train_adapter,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..cards import Sft

TRAINING = "training.json"
"""The file of a `TrainingRecord`."""
FILES: dict[Recipe, tuple[str, ...]] = {
    "lora": (*ADAPTER_FILES, TRAINING),
    "esft": (DELTAS, TRAINING),
    "router": (DELTAS, TRAINING),
}
"""Recipe -> the files of a finished training."""
WEIGHTS: dict[Recipe, str] = {"lora": ADAPTER_FILES[1], "esft": DELTAS, "router": DELTAS}
"""Recipe -> the file of the trained weights, by which a cell knows them."""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a training took, and what it changed.

    Attributes:
        recipe: the recipe.
        parameters: number of trained parameters.
        tokens: number of tokens read, epochs included, without padding.
        steps: number of steps of the optimizer.
        seconds: wall time.
        peak_bytes: the most memory; see `Meter`.
        changed: number of weights (`lora`) or of their rows that the training changed.
        trained: number of those that it should change.
        experts: (layer, expert) of the trained experts of `esft`.
    """

    recipe: Recipe
    parameters: int
    tokens: int
    steps: int
    seconds: float
    peak_bytes: int | None
    changed: int
    trained: int
    experts: tuple[tuple[int, int], ...] = ()

    @property
    def landed(self) -> float:
        """The share of what should change that changed."""
        return self.changed / self.trained if self.trained else 0.0

    @classmethod
    def parsed(cls, content: dict[str, object]) -> TrainingRecord:
        """Return the record of a file's content.

        Raises:
            TypeError: a field is missing or unknown.
        """
        experts = content.get("experts", ())
        pairs = tuple((int(a), int(b)) for a, b in experts) if isinstance(experts, list) else ()
        return cls(**content | {"experts": pairs})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A training of one variant for one target.

    Attributes:
        recipe: the recipe.
        pairs: the tuning items, as prompt and answer.
        settings: of this recipe.
        seed: makes the training the same on the same machine.
        experts: the experts that `esft` trains.
    """

    recipe: Recipe
    pairs: Sequence[tuple[str, str]]
    settings: Sft
    seed: int
    experts: tuple[ChosenExpert, ...] = ()


def train_variant(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    task: TrainingTask,
    folder: Path,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a variant and write `FILES` of its recipe; the model is unchanged afterwards.

    Args:
        model: a transformers MoE causal language model, not steered.
        tokenizer: its tokenizer.
        task: what is trained, on what.
        folder: an empty folder.
        on_step: called after each step.

    Raises:
        UserError: the model's weights do not allow the recipe, or peft is not installed.
    """
    lessons = Lessons(encode_pairs(tokenizer, task.pairs), task.settings, task.seed)
    with metered(model.device) as meter:
        if task.recipe == "lora":
            of = task.pairs, task.settings, task.seed
            train_adapter(model, tokenizer, *of, folder, on_step)
            parameters, landed = adapter_parameters(folder), landed_adapters(model, folder)
        else:
            parts = (
                expert_parts(model, task.experts) if task.recipe == "esft" else router_parts(model)
            )
            deltas = train_deltas(model, parts, lessons, on_step)
            write_deltas(folder, deltas)
            parameters = sum(one.values.numel() for one in deltas.values())
            landed = changed_rows(model, deltas)
    record = _record(task, lessons, meter, parameters, landed)
    text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
    (folder / TRAINING).write_text(text, encoding="utf-8")


def _record(
    task: TrainingTask, lessons: Lessons, meter: Meter, parameters: int, landed: tuple[int, int]
) -> TrainingRecord:
    return TrainingRecord(
        recipe=task.recipe,
        parameters=parameters,
        tokens=lessons.tokens,
        steps=lessons.steps,
        seconds=round(meter.seconds, 3),
        peak_bytes=meter.peak_bytes,
        changed=landed[0],
        trained=landed[1],
        experts=tuple(sorted((one.layer, one.expert) for one in task.experts)),
    )


@contextmanager
def fine_tuned(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Make the model that of a folder of trained weights inside the context.

    Raises:
        UserError: the folder is damaged or of another model, or peft is not installed.
    """
    if (folder / DELTAS).is_file():
        with with_deltas(model, read_deltas(folder, model)):
            yield
        return
    with adapter(model, folder):
        yield


def merge_trained(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the model with the trained weights of a folder for good.

    Raises:
        UserError: as `fine_tuned`.
    """
    if (folder / DELTAS).is_file():
        put_deltas(model, read_deltas(folder, model))
        return model
    merged: PreTrainedModel = load_adapter(model, folder).merge_and_unload()
    return merged

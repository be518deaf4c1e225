"""Fine-tuned variants by their recipe: what each trains, and what its folder holds.

`lora` and the recipes that add a loss to it leave peft's files, `esft` and `router` leave deltas.
Each folder also has `TRAINING`: what the training took, and the proof that it changed the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import ExpertSource, Recipe
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
from .expert_penalties import (
    Penalty,
    PenaltyRecord,
    check_single_experts,
    hinge_penalty,
    published_penalty,
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
    "lora-cka": (*ADAPTER_FILES, TRAINING),
    "simsmoe": (*ADAPTER_FILES, TRAINING),
    "esft": (DELTAS, TRAINING),
    "router": (DELTAS, TRAINING),
}
"""Recipe -> the files of a finished training."""
WEIGHTS: dict[Recipe, str] = {recipe: files[-2] for recipe, files in FILES.items()}
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
        changed: number of weights (of adapters) or of their rows that the training changed.
        trained: number of those that it should change.
        experts: (layer, expert) of the trained experts of `esft`.
        similarity: what the loss on the similarity of experts came to; None without one.
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
    similarity: PenaltyRecord | None = None

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
        found = content.get("similarity")
        similarity = PenaltyRecord(**found) if isinstance(found, dict) else None
        return cls(**content | {"experts": pairs, "similarity": similarity})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A training of one variant for one target.

    Attributes:
        recipe: the recipe.
        pairs: the tuning items, as prompt and answer.
        settings: of this recipe.
        seed: makes the training the same on the same machine.
        experts: the experts that `esft` trains.
        source: `Variant.expert_source`, by which a control of `lora-cka` differs from its arm.
    """

    recipe: Recipe
    pairs: Sequence[tuple[str, str]]
    settings: Sft
    seed: int
    experts: tuple[ChosenExpert, ...] = ()
    source: ExpertSource = "method"


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
        penalty = None
        if WEIGHTS[task.recipe] != DELTAS:
            penalty = _penalty(model, task, lessons)
            of = task.pairs, task.settings, task.seed
            train_adapter(model, tokenizer, *of, folder, on_step, penalty)
            parameters, landed = adapter_parameters(folder), landed_adapters(model, folder)
            parameters += sum(one.numel() for one in penalty.parameters) if penalty else 0
        else:
            parts = (
                expert_parts(model, task.experts) if task.recipe == "esft" else router_parts(model)
            )
            deltas = train_deltas(model, parts, lessons, on_step)
            write_deltas(folder, deltas)
            parameters = sum(one.values.numel() for one in deltas.values())
            landed = changed_rows(model, deltas)
    record = _record(task, lessons, meter, parameters, landed)
    record = replace(record, similarity=penalty.record() if penalty else None)
    text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
    (folder / TRAINING).write_text(text, encoding="utf-8")


def _penalty(model: PreTrainedModel, task: TrainingTask, lessons: Lessons) -> Penalty | None:
    """Return the loss on the similarity of experts that a recipe adds; None: it adds none."""
    if task.recipe == "lora":
        return None
    check_single_experts(model, [tokens for tokens, _ in lessons.rows], f"sft-{task.recipe}")
    if task.recipe == "simsmoe":
        return published_penalty(model, task.seed)
    return hinge_penalty(model, task.seed, task.source)


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

"""Does making experts less alike make them specialise? Small models trained by four objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from ..errors import UserError
from ..experts.similarity import Kernel
from ..files import locked, read_json, seal, unseal, write_json
from ..models import load_model
from ..progress import progress_bar
from ..steering import find_routers
from ..variants.expert_penalties import ExpertCall, watched_experts
from .characters import CharacterText, character_text, character_tokenizer
from .existence_maps import ExistenceMaps, existence_maps
from .results import Basis, LayerRow
from .similarity import read_texts, similarity
from .simsmoe_results import (
    CheckpointMeasures,
    ModelMeasures,
    SimilarityMeasures,
    SimsmoeResult,
    SpecificExperts,
)
from .simsmoe_summary import objective_rows, saturation_rows
from .simsmoe_training import (
    LONGEST,
    OBJECTIVES,
    STATE,
    Objective,
    SmallTraining,
    new_model,
    train_small,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUITE = "smol"
MEASURES = "measures.json"
PERMUTATIONS, CONTROLS, TOKENS = 1999, 1, 512
SPEED, MEASURED = 17_000, 20
"""Characters per second of training, and seconds per checkpoint, of one core: for the plan."""
_WINDOW = 256


@dataclass(frozen=True, slots=True)
class SimsmoePlan:
    """Which models are trained.

    Attributes:
        objectives: the objectives.
        seeds: the seeds of each.
        steps: steps of each training.
    """

    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    steps: int

    @classmethod
    def of(cls, names: Sequence[str], seeds: int, steps: int) -> SimsmoePlan:
        """Return the plan with objectives by name, in the order of `OBJECTIVES`."""
        chosen = tuple(one for one in OBJECTIVES if one in names)
        return cls(chosen, tuple(range(seeds)), steps)

    def described(self) -> str:
        """Return the plan in words."""
        first = self.trainings[0]
        read = self.steps * first.batch * first.length
        minutes = len(self.trainings) * (read / SPEED + MEASURED * len(first.checkpoints)) / 60
        return (
            f"{len(self.trainings)} trainings: {', '.join(self.objectives)}, {len(self.seeds)} "
            f"seed(s) each; {self.steps} steps, {read / 1e6:.1f} M characters each; checkpoints at "
            f"{', '.join(map(str, first.checkpoints))}; about {minutes:.0f} minutes of one core"
        )

    @property
    def trainings(self) -> tuple[SmallTraining, ...]:
        """All trainings, seed by seed, so that a stopped study can be compared."""
        return tuple(
            SmallTraining(objective, seed, self.steps)
            for seed in self.seeds
            for objective in self.objectives
        )


def simsmoe(plan: SimsmoePlan, out: Path, console: Console) -> SimsmoeResult:
    """Train and measure all models of a plan; what is finished in `out` is not done again.

    Raises:
        UserError: `out` is of another plan's trainings, or in use.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = character_text(SUITE, character_tokenizer(LONGEST))
    with locked(out):
        with progress_bar(console, "train", plan.steps * len(plan.trainings)) as advance:
            logs = [
                train_small(one, text.trained, out / one.name, advance) for one in plan.trainings
            ]
        checkpoints = sum(len(one.checkpoints) for one in plan.trainings)
        with progress_bar(console, "measure", checkpoints, "checkpoints") as advance:
            models = [
                _measured(one, [asdict(step) for step in log], out / one.name, text, advance)
                for one, log in zip(plan.trainings, logs, strict=True)
            ]
    first = plan.trainings[0]
    model = new_model(first)
    return SimsmoeResult(
        steps=plan.steps,
        characters_trained=len(text.trained),
        characters_read=plan.steps * first.batch * first.length,
        documents=len(text.held_out),
        hypotheses=first.layers * first.experts * len(set(text.domains)),
        parameters=sum(one.numel() for one in model.parameters()),
        seeds=list(plan.seeds),
        objectives=objective_rows(models),
        saturation=saturation_rows(),
        models=models,
    )


def _measured(
    training: SmallTraining,
    losses: list[dict[str, float | None]],
    folder: Path,
    text: CharacterText,
    advance: Callable[[int], None],
) -> ModelMeasures:
    """Measure a trained model, or read its measures."""
    path = folder / MEASURES
    if path.is_file():
        advance(len(training.checkpoints))
        return _kept_measures(path, training, losses)
    checkpoints = []
    for step in training.checkpoints:
        checkpoints.append(_checkpoint(folder / f"step-{step}", step))
        advance(1)
    loaded = load_model(str(folder / f"step-{training.steps}"), "cpu")
    found = similarity(loaded, read_texts(SUITE), TOKENS, console=Console(quiet=True))["layers"]
    load = _load(loaded.model, text.held_out)
    shares = load / load.sum(1, keepdims=True)
    entropies = -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum(1)
    measures = ModelMeasures(
        objective=training.objective,
        seed=training.seed,
        bits=[bits_of(loaded.model, one) for one in text.held_out],
        characters=[len(one) - 1 for one in text.held_out],
        entropy=float(entropies.mean()) / math.log(training.experts),
        largest=float(shares.max()),
        linear=_similarity(found, "linear"),
        rbf=_similarity(found, "rbf"),
        checkpoints=checkpoints,
        losses=losses,
    )
    write_json(path, seal(measures))
    return measures


def _kept_measures(
    path: Path, training: SmallTraining, losses: list[dict[str, float | None]]
) -> ModelMeasures:
    """Read a model's measures, after checking that they are of this training."""
    try:
        kept: ModelMeasures = unseal(read_json(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}; delete it, and it is measured again") from error
    of = kept["objective"], kept["seed"], kept["losses"]
    if of != (training.objective, training.seed, losses):
        raise UserError(
            f"{path}: is of another training than {STATE} beside it; delete it, and it is "
            "measured again"
        )
    return kept


def _checkpoint(folder: Path, step: int) -> CheckpointMeasures:
    maps = existence_maps(
        str(folder), SUITE, ("counts", "influence"), "gradient", permutations=PERMUTATIONS,
        controls=CONTROLS, device="cpu", console=Console(quiet=True),
    )  # fmt: skip
    counts, influence = (_specific(maps, by) for by in ("counts", "influence"))
    return {"step": step, "counts": counts, "influence": influence}


def _specific(maps: ExistenceMaps, by: Basis) -> SpecificExperts:
    test = maps.tests[by]
    beside = {kind: one["discoveries"][0] for kind, one in test["controls"].items()}
    total = sum(sum(row["by_layer"]) for row in test["domains"])
    return {"specific": total, "random": beside["random"], "shuffled": beside["shuffled"]}


def _similarity(layers: Sequence[LayerRow], kernel: Kernel) -> SimilarityMeasures:
    rows = [one[kernel] for one in layers]
    return {
        "experts": float(np.mean([row["experts"]["mean"] for row in rows])),
        "shuffled": float(np.mean([row["shuffled"]["mean"] for row in rows])),
        "random": float(np.mean([row["random"]["mean"] for row in rows])),
        "effective_rank": float(np.mean([row["experts"]["effective_rank"] for row in rows])),
    }


@torch.no_grad()
def bits_of(model: PreTrainedModel, document: Tensor) -> float:
    """Compute the bits of a document's characters, each predicted from at most `_WINDOW` before it.

    Windows do not overlap, and each begins with the last character of the former.

    Args:
        model: a language model of characters.
        document: [characters + 1], the first of which is only read.
    """
    total = 0.0
    for start in range(0, len(document) - 1, _WINDOW):
        window = document[start : start + _WINDOW + 1]
        logits = model(input_ids=window[None, :-1], use_cache=False).logits[0]
        total += float(nn.functional.cross_entropy(logits.double(), window[1:], reduction="sum"))
    return total / math.log(2)


@torch.no_grad()
def _load(model: PreTrainedModel, documents: Sequence[Tensor]) -> NDArray[np.int64]:
    """Count the selections of each expert, [layers, experts]."""
    routers, calls = find_routers(model), dict[int, ExpertCall]()
    counts = torch.zeros(len(routers), routers[0].experts, dtype=torch.long)
    with watched_experts(routers, calls):
        for document in documents:
            model(input_ids=document[None, :_WINDOW], use_cache=False)
            for at, router in enumerate(routers):
                selected = calls[router.layer].indices.flatten()
                counts[at] += torch.bincount(selected, minlength=router.experts)
    found: NDArray[np.int64] = counts.numpy()
    return found

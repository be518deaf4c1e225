"""Makes a carving like that of `lab-smol` again, from the dense model and text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from ..files import new_folder, write_bytes, write_json
from ..progress import progress_bar
from .carving import CarvedLayer
from .distillation import Distillation, DistilledModel, resume, text_hash
from .masked_moe import as_dense, make_trainable
from .neurons import choose_carving
from .passages import Texts, held_out, passage_losses, training_tokens
from .smol import SHAPE, built_folder, load_carving, write_carved

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

RECIPES = {
    "cpu": Distillation(steps=200, batch=4, at_once=1, looked_at=32),
    "cuda": Distillation(steps=548, batch=64, at_once=16, looked_at=64),
}
"""What fits into an hour on two cores, and what made the carving that ships."""


def train_smol(texts: Texts, out: Path, console: Console, steps: int | None = None) -> str:
    """Train a carving of the dense model into `out`, and return its losses in words.

    It is done on the first GPU, or else on the CPU. A training that was stopped goes on where its
    state was last saved.

    Args:
        texts: documents by domain; which of them are trained on, `passages` says.
        out: folder to write to; the model is in its sub-folder `model`.
        console: where progress is shown.
        steps: number of steps, if not the recipe's.

    Raises:
        UserError: there is too little text, or `out` holds the state of another training.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    place = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = RECIPES[place]
    recipe = replace(recipe, steps=steps or recipe.steps)
    dense = built_folder("lab-smol-dense")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    tokenizer.model_max_length = sys.maxsize  # documents are cut into sequences
    passages = held_out(texts, tokenizer, recipe.length)
    sequences = training_tokens(texts, tokenizer, recipe.length)
    model = LlamaForCausalLM.from_pretrained(dense).to(place).eval()
    training = _begun(model, sequences, passages, recipe, out / "state.safetensors", console)
    with progress_bar(console, "distil", recipe.steps) as advance:
        advance.skip(training.done)
        training.run(sequences, out / "state.safetensors", text_hash(sequences), advance)
    _write(out, dense, [layer.carved() for layer in training.layers])
    return _measured(training, passages, out, console)


def _begun(
    model: LlamaForCausalLM,
    sequences: Tensor,
    passages: Mapping[str, Tensor],
    recipe: Distillation,
    state: Path,
    console: Console,
) -> DistilledModel:
    """Return the training that `state` holds, or a new one of freshly chosen neurons."""
    if state.is_file():
        return resume(model, recipe, SHAPE, state, text_hash(sequences))
    torch.manual_seed(recipe.seed)
    some = torch.randperm(len(sequences))[: recipe.looked_at]
    looked_at = [one[None] for one in sequences[some].to(model.device)]
    total = 2 * len(looked_at) + len(model.model.layers)
    with progress_bar(console, "choose neurons", total) as advance:
        carved = choose_carving(model, looked_at, SHAPE, recipe.seed, advance)
    layers = make_trainable(model, carved, SHAPE, recipe.rank)
    untrained = _losses(model, passages, "measure untrained", console)
    return DistilledModel(model, layers, recipe, untrained)


def _losses(
    model: LlamaForCausalLM, passages: Mapping[str, Tensor], label: str, console: Console
) -> dict[str, float]:
    total = sum(map(len, passages.values()))
    with progress_bar(console, label, total, "passages") as advance:
        return passage_losses(model, passages, advance)


def _write(out: Path, dense: Path, layers: list[CarvedLayer]) -> None:
    """Write the deltas, and the model that they make."""
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        tensors[f"{index}.perm"] = layer.order.to(torch.int16)
        tensors[f"{index}.router"] = layer.router
        for name, (left, right) in layer.deltas.items():
            tensors |= {f"{index}.B{name[0]}": left, f"{index}.A{name[0]}": right}
    write_bytes(out / "deltas.safetensors", save(tensors))
    shutil.rmtree(out / "model", ignore_errors=True)
    with new_folder(out / "model") as draft:
        write_carved(draft, dense, load_carving(out), SHAPE)


def _measured(
    training: DistilledModel, passages: Mapping[str, Tensor], out: Path, console: Console
) -> str:
    """Measure the model, write `training.json`, and return a table."""
    trained = _losses(training.model, passages, "measure trained", console)
    with as_dense(training.layers):
        dense = _losses(training.model, passages, "measure dense", console)
    rows = {name: (dense[name], trained[name], training.untrained[name]) for name in passages}
    means = [sum(column) / len(rows) for column in zip(*rows.values(), strict=True)]
    written = {
        "recipe": asdict(training.recipe),
        "log": [astuple(one) for one in training.log],
        "by_domain": rows,
    }
    write_json(out / "training.json", written)
    lines = [f"lab-smol trained, {training.done} steps: {out / 'model'}"]
    lines.append(f"{'nats per token':<20}{'dense':>8}{'trained':>9}{'untrained':>11}")
    for name, (one, two, three) in [*rows.items(), ("mean", tuple(means))]:
        lines.append(f"{name:<20}{one:>8.3f}{two:>9.3f}{three:>11.3f}")
    return "\n".join(lines)

"""Supervised fine-tuning as the rival of steering: LoRA on the target's tuning items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..cards import Sft
from ..engines.encoding import Encoder
from ..errors import UserError, one_line, out_of_memory
from ..experts.tokenizer import Tokenizer
from ..steering import find_routers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_IGNORED = -100
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What `train_adapter` saves and `adapter` reads."""


def train_adapter(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    settings: Sft,
    seed: int,
    folder: Path,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train LoRA adapters on (prompt, answer) pairs and save them in `folder`.

    Attention projections and the experts' weights are trained, the routers are not. The loss is
    that of the answer and of the end of text. The model is unchanged afterwards.

    Args:
        model: a transformers MoE causal language model, not steered.
        tokenizer: its tokenizer.
        pairs: the tuning items.
        settings: rank, learning rate and so on; the batch order is drawn from `seed`.
        seed: makes the adapters the same on the same machine.
        folder: written to: `ADAPTER_FILES`.
        on_step: called after each step, for a progress bar.

    Raises:
        UserError: peft is not installed.
    """
    peft = _import_peft()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        target_parameters=_expert_parameters(model),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with _left_as_found(model):
        adapted = peft.get_peft_model(model, config)
        try:
            _train(adapted, _encode(tokenizer, pairs), settings, seed, on_step)
            adapted.save_pretrained(str(folder), safe_serialization=True)
        finally:
            adapted.unload()


def step_count(items: int, settings: Sft) -> int:
    """Count the optimizer steps that `train_adapter` will make."""
    return settings.epochs * -(-items // settings.batch_size)


def adapter_parameters(folder: Path) -> int:
    """Return the number of parameters of a trained adapter in its folder."""
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_FILES[1], framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


@contextmanager
def adapter(model: PreTrainedModel, folder: Path) -> Iterator[PeftModel]:
    """Yield the model with the adapters of `folder` on it; remove them afterwards.

    Raises:
        UserError: peft is not installed, or the folder is damaged.
    """
    with _left_as_found(model):
        adapted = load_adapter(model, folder)
        try:
            yield adapted.eval()
        finally:
            adapted.unload()


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the adapters of a folder on a model.

    Raises:
        UserError: as `adapter`.
    """
    peft = _import_peft()
    try:
        adapted: PeftModel = peft.PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # given a damaged file, a library may raise anything
        if out_of_memory(error):
            raise
        raise UserError(
            f"{folder}: the adapter cannot be loaded ({one_line(error)}); delete it and run again"
        ) from error
    return adapted


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Restore what is trainable afterwards: peft freezes parameters while it adapts."""
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
        model.train(training)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "fine-tuned variants need peft: pip install 'dsmoe-eval[sft]', or leave them out of "
            "the plan"
        ) from error
    return peft


def _expert_parameters(model: nn.Module) -> list[str]:
    """Return the names of the fused expert weights, for peft's `target_parameters`."""
    names = {
        f"experts.{name}"
        for router in find_routers(model)
        for name, parameter in router.consumer.named_parameters()
        if parameter.ndim == 3 and router.consumer is getattr(router.block, "experts", None)
    }
    if not names:
        raise UserError("this model's experts hold no fused weights; sft-lora cannot adapt them")
    return sorted(names)


def _encode(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Return (tokens of prompt, answer and end of text; length of the prompt) for each pair."""
    encoder = Encoder(tokenizer)
    return [
        ([*encoder.encode(prompt + answer), tokenizer.eos_token_id], len(encoder.encode(prompt)))
        for prompt, answer in pairs
    ]


def _train(
    adapted: PeftModel,
    rows: Sequence[tuple[list[int], int]],
    settings: Sft,
    seed: int,
    on_step: Callable[[], None],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
    total = step_count(len(rows), settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    adapted.train()
    for _ in range(settings.epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), settings.batch_size):
            batch = [rows[index] for index in order[start : start + settings.batch_size]]
            ids, mask, labels = _collate(batch, adapted.device)
            adapted(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            on_step()


def _collate(
    batch: Sequence[tuple[list[int], int]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(tokens) for tokens, _ in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for row, (tokens, prompt) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, prompt : len(tokens)] = ids[row, prompt : len(tokens)]
    return ids.to(device), mask.to(device), labels.to(device)

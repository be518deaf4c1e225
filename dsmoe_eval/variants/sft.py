"""Low-rank adapters of attention and experts, by peft: `lora`, and the recipes that add a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..cards import Sft
from ..errors import UserError, one_line, out_of_memory
from ..experts.tokenizer import Tokenizer
from ..steering import find_routers
from .expert_penalties import Penalty
from .fitting import Lessons, encode_pairs, fit, left_unchanged

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What `train_adapter` saves and `adapter` reads."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def train_adapter(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    settings: Sft,
    seed: int,
    folder: Path,
    on_step: Callable[[], None] = lambda: None,
    penalty: Penalty | None = None,
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
        penalty: what is added to the loss; its parameters are trained, and not saved.

    Raises:
        UserError: peft is not installed.
    """
    peft = _import_peft()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(_ATTENTION),
        target_parameters=_expert_parameters(model),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with left_unchanged(model):
        with _whole_or_none(model):
            adapted = peft.get_peft_model(model, config)
        try:
            lessons = Lessons(encode_pairs(tokenizer, pairs), settings, seed)
            with nullcontext() if penalty is None else penalty.attached():
                _train(adapted, lessons, on_step, penalty)
            adapted.save_pretrained(str(folder), safe_serialization=True)
        finally:
            adapted.unload()


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
    with left_unchanged(model):
        adapted = load_adapter(model, folder)
        try:
            yield adapted.eval()
        finally:
            adapted.unload()


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the adapters of a folder on a model, which is unchanged if they cannot be loaded.

    Raises:
        UserError: as `adapter`.
    """
    peft = _import_peft()
    try:
        with _whole_or_none(model):
            adapted: PeftModel = peft.PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # given a damaged file, a library may raise anything
        if out_of_memory(error):
            raise
        raise UserError(
            f"{folder}: the adapter cannot be loaded ({one_line(error)}); delete it and run again"
        ) from error
    return adapted


@contextmanager
def _whole_or_none(model: nn.Module) -> Iterator[None]:
    """Remove all adapters of a model if the context fails: peft leaves those that it has put on."""
    try:
        yield
    except BaseException:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer) and ".base_layer" not in name:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.get_base_layer())
        vars(model).pop("peft_config", None)
        raise


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


def _train(
    adapted: PeftModel, lessons: Lessons, on_step: Callable[[], None], penalty: Penalty | None
) -> None:
    def loss(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
        return value if penalty is None else value + penalty(ids, mask)

    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    trainable += [] if penalty is None else penalty.parameters
    adapted.train()
    fit(loss, trainable, lessons, on_step)


def landed_adapters(model: nn.Module, folder: Path) -> tuple[int, int]:
    """Count the weights that the adapters of a folder change, and those that they should.

    peft leaves out silently what it does not find; an adapter whose second matrix is zero changes
    nothing.
    """
    from safetensors import safe_open

    attention = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _ATTENTION]
    fused = len(_expert_parameters(model)) * len(find_routers(model))
    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as file:
        second = [name for name in file.keys() if "lora_B" in name]  # noqa: SIM118
        changing = sum(bool(file.get_tensor(name).any()) for name in second)
    return changing, len(attention) + fused

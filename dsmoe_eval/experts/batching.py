"""Texts in batches: how large, padded how, and a model that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_budget(device: torch.device) -> int:
    """Tokens of a batch. On a CPU its states should stay in cache: 4096 took 1.7 times as long."""
    return 1024 if device.type == "cpu" else 16384


def batches(documents: Sequence[Document], budget: int) -> list[list[int]]:
    """Longest first, so that memory is tried at once; padded size within the budget."""
    order = sorted(range(len(documents)), key=lambda index: -len(documents[index].tokens))
    found, start = [], 0
    while start < len(order):
        count = max(1, budget // len(documents[order[start]].tokens))
        found.append(order[start : start + count])
        start += count
    return found


def entrance(model: PreTrainedModel) -> torch.device:
    """Where the model takes its tokens, also when it is spread over devices."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return torch.device(model.get_input_embeddings().weight.device if device is None else device)


def on_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors on a device."""
    return tuple(tensor.to(device) for tensor in tensors)


def pad(
    sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [sequences, length], right-padded."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    padded = nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=0
    )
    mask = (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long()
    return padded.to(device), mask.to(device)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without trainable parameters; as it was afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)

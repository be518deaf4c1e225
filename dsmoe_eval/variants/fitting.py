"""One training loop for every recipe: AdamW on the answers' tokens, the rate falling to zero."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..cards import Sft
from ..engines.encoding import Encoder
from ..experts.tokenizer import Tokenizer

_IGNORED = -100
Row = tuple[Sequence[int], int]
"""A text in tokens, and the number of the first ones, those of the prompt, that have no loss."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function: token ids, mask and labels [batch, length] -> the mean loss of the labelled."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """The texts that a model is trained on, and the pace of training.

    Attributes:
        rows: the texts; the order of batches is drawn from `seed`.
        settings: of one recipe: learning rate, epochs and batch size.
        seed: makes the training the same on the same machine.
    """

    rows: tuple[Row, ...]
    settings: Sft
    seed: int

    @property
    def steps(self) -> int:
        """The number of steps of the optimizer."""
        return step_count(len(self.rows), self.settings)

    @property
    def tokens(self) -> int:
        """The number of tokens that are read, without padding."""
        return self.settings.epochs * sum(len(tokens) for tokens, _ in self.rows)


def step_count(items: int, settings: Sft) -> int:
    """Count the optimizer steps that training will make."""
    return settings.epochs * -(-items // settings.batch_size)


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[Row, ...]:
    """Encode pairs of prompt and answer, each with the end of text behind it."""
    encoder = Encoder(tokenizer)
    return tuple(
        ([*encoder.encode(prompt + answer), tokenizer.eos_token_id], len(encoder.encode(prompt)))
        for prompt, answer in pairs
    )


def fit(
    loss: Loss,
    trainable: Sequence[nn.Parameter],
    lessons: Lessons,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train parameters; on the same machine the same inputs give the same bytes.

    Args:
        loss: the loss of the model with the parameters.
        trainable: the parameters.
        lessons: the texts and the pace.
        on_step: called after each step, for a progress bar.
    """
    settings, rows = lessons.settings, lessons.rows
    device = trainable[0].device
    generator = torch.Generator().manual_seed(lessons.seed)
    optimizer = torch.optim.AdamW(trainable, lr=settings.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / lessons.steps)
    for _ in range(settings.epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), settings.batch_size):
            batch = [rows[index] for index in order[start : start + settings.batch_size]]
            loss(*_collate(batch, device)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            on_step()


def _collate(batch: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(tokens) for tokens, _ in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for row, (tokens, prompt) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, prompt : len(tokens)] = ids[row, prompt : len(tokens)]
    return ids.to(device), mask.to(device), labels.to(device)


@contextmanager
def left_unchanged(model: nn.Module) -> Iterator[None]:
    """Restore afterwards what is trainable, and whether the model is in training mode."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = model.training
    try:
        yield
    finally:
        for parameter, before in trainable:
            parameter.requires_grad_(before)
        model.train(training)


@dataclass(slots=True)
class Meter:
    """The time and the memory that something took.

    Attributes:
        seconds: wall time.
        peak_bytes: the most memory at a time: of a GPU what torch allocated, else that of the whole
            process; None where the system does not say it.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Measure the time and the memory of the context; the figures are there after its end."""
    meter, started = Meter(), time.perf_counter()
    known = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        known = _forget_peak()
    yield meter
    meter.seconds = time.perf_counter() - started
    if device.type == "cuda":
        meter.peak_bytes = torch.cuda.max_memory_allocated(device)
    elif known:
        meter.peak_bytes = _peak()


def _forget_peak() -> bool:
    """Set the peak of the process to its present memory; return whether Linux did it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int | None:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return None if found is None else 1024 * int(found[1])

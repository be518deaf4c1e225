"""Identification on random models at real sizes: items a second, and memory beside the weights."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models
import torch
from identify_arms import Ours, Procedure, Subject
from live_bytes import peak_bytes
from quiz import make_items, make_tokenizer

from dsmoe_eval.experts import Document, observe
from dsmoe_eval.experts.batching import token_budget
from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.registry import load_model_card

OPERATIONS = 4  # for each active weight and token
VOCABULARY = 4096  # that the items use
PEER_ITEMS = 3
GIGABYTE = 1e9


@dataclass(frozen=True)
class CardRow:
    """What was measured on one model; the peer's rate is None where its gradients do not fit."""

    name: str
    device: str
    weights_gb: float
    items_s: float
    peer_items_s: float | None
    times_floor: float
    batch_tokens: int
    items_gb: float
    long_tokens: int
    long_gb: float

    def __str__(self) -> str:
        peer = "-" if self.peer_items_s is None else f"{self.items_s / self.peer_items_s:.1f}"
        return (
            f"{self.name} on {self.device}: {self.items_s:.1f} items/s, x {peer} the published "
            f"procedure's, {self.times_floor:.1f} x the floor's time; weights {self.weights_gb:.1f}"
            f" GB + {self.items_gb:.1f} GB (batches of {self.batch_tokens} tokens), + "
            f"{self.long_gb:.1f} GB for one text of {self.long_tokens} tokens"
        )


def measure(name: str, device: str, items: int, long_tokens: int) -> CardRow:
    """One card's model, made on the device."""
    config = card_config(load_model_card(name))
    built, model = models.build(config, name, device)
    subject = Subject(model, make_tokenizer(VOCABULARY), make_items(items, VOCABULARY))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ours = Ours(subject)
    ours.run()  # warms up
    seconds, items_gb = _timed(ours.run, device), _peak_gb(ours.run, device)
    tokens = sum(map(len, subject.token_ids()))
    rate, _ = models.machine(device, built.dtype)
    floor = OPERATIONS * (built.size.active_body + built.size.head) * tokens / rate / 1e9
    text = Document("all", tuple(i % VOCABULARY for i in range(long_tokens)),
                    (True,) * long_tokens, long_tokens)  # fmt: skip
    documents = [text]
    row = CardRow(
        name=name, device=device,
        weights_gb=sum(p.numel() * p.element_size() for p in model.parameters()) / GIGABYTE,
        items_s=items / seconds, peer_items_s=None, times_floor=seconds / floor,
        batch_tokens=Saliency(model).budget(token_budget(torch.device(device)), documents),
        items_gb=items_gb, long_tokens=long_tokens,
        long_gb=_peak_gb(lambda: _pass(model, documents), device),
    )  # fmt: skip
    return replace(row, peer_items_s=_peer(subject, row, device))


def measure_all(
    cards: tuple[str, ...], device: str, items: int, long_tokens: int
) -> Iterator[CardRow | str]:
    """Rows, or why there is none."""
    for name in cards:
        width = 2 if device == "cuda" else 4
        needed = load_model_card(name).parameters.total * width
        free = models.free_memory(device)
        if needed > free:
            yield f"{name}: skipped, needs {needed / 1e9:.0f} GB of {free / 1e9:.0f} free"
            continue
        yield measure(name, device, items, long_tokens)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _pass(model: Any, documents: list[Document]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        observe(model, documents, Path(folder), saliency_model=model)


def _peer(subject: Subject, row: CardRow, device: str) -> float | None:
    """Items a second of the published procedure, which keeps a gradient of every weight."""
    if models.free_memory(device) < 1.2 * row.weights_gb * GIGABYTE:
        return None
    few = Procedure(replace(subject, items=subject.items[:PEER_ITEMS]))
    for parameter in subject.model.parameters():
        parameter.requires_grad_(True)
    seconds = _timed(few.run, device)
    subject.model.zero_grad()
    return PEER_ITEMS / seconds


def _timed(work: Any, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_gb(work: Any, device: str) -> float:
    """GB beside what is there: by the allocator on a GPU, else counted by live tensors."""
    if device != "cuda":
        return peak_bytes(work) / GIGABYTE
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / GIGABYTE

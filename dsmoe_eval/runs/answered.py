"""What methods learn from right answers, beside the routing: influence, and tuned routers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..cards import Sft
from ..engines.base import Engine, pass_identity
from ..experts import OutcomeItem, RoutingCounts
from ..experts.passes import pass_folder
from ..experts.tensor_files import read_tensors, save_tensors
from ..tasks.identification import domain_texts
from ..tasks.items import WithItems
from ..variants.deltas import router_parts, train_deltas, with_deltas
from ..variants.fitting import Lessons, Row
from .influence import gaining, with_influence
from .outcome_items import outcome_items
from .specification import IdentificationSpec

ROUTER_PACE = Sft(learning_rate=1e-3, epochs=3, batch_size=8)
"""The pace of router tuning without a plan's section `sft`; epochs and batches of RouterLens."""


def with_answers(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    wanted: IdentificationSpec,
    advance: Callable[[int], object] = lambda _: None,
) -> RoutingCounts:
    """Return the counts with what the methods need of right answers.

    Raises:
        UserError: the engine computes no gradients, or an item has no outcome.
        ValueError: a stored file is damaged, or as `with_influence`.
        SteeringError: the model's routers or experts do not allow it.
    """
    chat = wanted.settings.chat_template
    if wanted.influence:
        counts = with_influence(engine, tasks, counts, root, wanted.settings, advance)
    if wanted.router_tuning:
        pace = _router_pace(wanted.sft)
        counts = with_router_tuning(engine, tasks, counts, root, pace, chat)
    return counts


def _router_pace(sft: Sft | None) -> Sft:
    """Return the plan's settings of the recipe `router`; the default where it has none."""
    if sft is None:
        return ROUTER_PACE
    rate = sft.learning_rate
    if isinstance(rate, dict):
        rate = rate.get("router", ROUTER_PACE.rate)
    own = {"learning_rate": rate, "epochs": sft.epochs, "batch_size": sft.batch_size}
    return Sft.model_validate(own)


def with_router_tuning(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    counts: RoutingCounts,
    root: Path,
    pace: Sft,
    chat: bool = False,
) -> RoutingCounts:
    """Return the counts with the change of each domain's routing when its routers are tuned.

    For each domain the routers alone are trained on the right answers of its identification items
    (see `gaining`; of text, on the text), and the domain's text is routed before and after. The
    model is unchanged afterwards.

    Args:
        engine: the model's engine, which must compute gradients.
        tasks: the tasks by name, read with their answers.
        counts: the counts of their text.
        root: the folder in which the results are stored.
        pace: learning rate, epochs and batch size.
        chat: whether questions are put into the tokenizer's chat template for training.

    Raises:
        UserError: the engine computes no gradients, or the model does not allow training.
        ValueError: a stored result is damaged.
    """
    texts, gain = domain_texts(tasks), gaining(tasks)
    rows = [_rows(engine, gain, domain, chat) for domain in counts.domains]
    read = [texts[domain] for domain in counts.domains]
    digest = hashlib.sha256(repr((rows, read)).encode()).hexdigest()
    about = [pass_identity(engine, engine.reader()), pace.model_dump(mode="json"), digest]
    folder = pass_folder(root, ["router-lens", *about])
    changes = [
        _use_change(engine, of, pace, folder / f"change-{index:03}.safetensors")
        for index, of in enumerate(zip(rows, read, strict=True))
    ]
    return replace(counts, use_change=np.stack(changes))


def _rows(
    engine: Engine, tasks: Mapping[str, WithItems], domain: str, chat: bool
) -> tuple[Row, ...]:
    """Return the texts of a domain's right answers."""
    chosen = {name: task for name, task in tasks.items() if task.card.domain == domain}
    return tuple(_row(one) for one in outcome_items(engine, chosen, chat))


def _row(item: OutcomeItem) -> Row:
    """Return the text of an item's right answer, and where the answer begins."""
    right = item.texts[item.rights[0]] if item.rights else item.texts[0]
    return right.tokens, right.start


def _use_change(
    engine: Engine, of: tuple[tuple[Row, ...], list[str]], pace: Sft, path: Path
) -> NDArray[np.float64]:
    """Compute the change of each expert's share of tokens by tuning, [layers, experts].

    `of` has the rows to train on, and the texts that are routed.
    """
    rows, texts = of
    if not path.is_file():
        model, before = engine.reader().model, engine.usage(texts)
        deltas = train_deltas(model, router_parts(model), Lessons(rows, pace, 0))
        with with_deltas(model, deltas):
            after = engine.usage(texts)
        save_tensors(path, {"change": torch.from_numpy(after - before)})
    change: NDArray[np.float64] = read_tensors(path)["change"].numpy()
    return change

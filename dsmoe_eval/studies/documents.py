"""The routing of every document of a suite, in a model and in control models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..errors import UserError
from ..experts import count_routing, encode_documents, observe
from ..experts.tokenizer import Tokenizer
from ..models import LoadedModel, load_model, random_weights, shuffled_routers
from ..progress import progress_bar
from ..stats import DocumentCounts
from ..steering import EXPERTS, Sites
from ..tasks.identification import (
    IdentificationText,
    TextSource,
    domain_groups,
    domain_texts,
    identification_text,
)
from ..tasks.items import WithItems
from .results import Control


@dataclass(frozen=True, slots=True)
class DocumentRouting:
    """The routing of every document in a model.

    Attributes:
        domains: names; `labels` indexes them.
        layers: the model's MoE layers.
        used: [documents, layers, experts] tokens for which the expert was selected.
        tokens: [documents] tokens.
        labels: [documents] domain.
    """

    domains: tuple[str, ...]
    layers: tuple[int, ...]
    used: NDArray[np.int64]
    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]

    def counts(self) -> DocumentCounts:
        """Return the counts with (layer, expert) as one axis, checked."""
        units = self.used.reshape(len(self.used), -1)
        return DocumentCounts(units, self.tokens, self.labels)


@dataclass(frozen=True, slots=True)
class ComparedRouting:
    """The routing of a model and of control models, on the same documents.

    Attributes:
        about: what was read: model, fingerprint, dtype, device, suite, limit.
        model: the routing of the model.
        controls: the routing of every control model, one per seed: of the same shape with random
            weights, and the model with shuffled routers.
    """

    about: dict[str, Any]
    model: DocumentRouting
    controls: dict[Control, list[DocumentRouting]]


def route_documents(
    name: str,
    source: str | TextSource,
    seeds: Sequence[int],
    *,
    limit: int | None = None,
    device: str | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
    dtype: str | None = None,
    attn_implementation: str | None = None,
    sites: Sites = EXPERTS,
) -> ComparedRouting:
    """Route identification text through a model and through control models.

    Args:
        name: as for `load_model`.
        source: a suite's name or path, of which only the identification text is read, or text
            documents.
        seeds: one per model of each kind of control.
        limit: the largest number of texts per task, or of documents per domain.
        device: a torch device.
        console: the console that shows progress.
        data: folders with the data sets; if empty, they come from the hub.
        dtype: as for `load_model`.
        attn_implementation: as for `load_model`.
        sites: as for `load_model`.

    Raises:
        UserError: unknown model or suite, or too few domains or documents.
    """
    text = _checked(identification_text(source, limit, data))
    tasks, console = text.tasks, console or Console(stderr=True)
    loaded = load_model(
        name, device, dtype=dtype, attn_implementation=attn_implementation, sites=sites
    )
    identity, tokenizer, config = loaded.identity, loaded.tokenizer, loaded.model.config
    precision, place = loaded.model.dtype, loaded.model.device
    models, texts = 1 + 2 * len(seeds), sum(len(task.items) for task in tasks.values())
    title = f"route {texts:,} texts through {models} models"
    with progress_bar(console, title, models * texts, "texts") as advance:
        read = (tokenizer, tasks, advance, sites)
        learned = document_routing(loaded.model, *read)
        shuffled = [_shuffled(loaded, tasks, seed, advance) for seed in seeds]
        # Two large models may not fit in memory: each is freed before the next is loaded.
        del loaded
        shape = (config, precision, place)
        random = [document_routing(random_weights(*shape, one, sites), *read) for one in seeds]
    about = {
        "model": identity.name,
        "fingerprint": identity.fingerprint,
        "dtype": str(precision).removeprefix("torch."),
        "device": place.type,
        **text.about,
        "limit": limit,
    } | ({} if sites == EXPERTS else {"units": sites.noun})
    return ComparedRouting(about, learned, {"random": random, "shuffled": shuffled})


def _shuffled(
    loaded: LoadedModel,
    tasks: Mapping[str, WithItems],
    seed: int,
    advance: Callable[[int], None],
) -> DocumentRouting:
    """Route documents through a model with shuffled routers."""
    sites = loaded.identity.sites
    with shuffled_routers(loaded.model, seed, sites):
        return document_routing(loaded.model, loaded.tokenizer, tasks, advance, sites)


def document_routing(
    model: Any,
    tokenizer: Tokenizer,
    tasks: Mapping[str, WithItems],
    advance: Callable[[int], None],
    sites: Sites = EXPERTS,
) -> DocumentRouting:
    """Route every question, without its answer, and every chunk.

    A document is a question, or a text with all its chunks.
    """
    documents = encode_documents(tokenizer, domain_texts(tasks), groups=domain_groups(tasks))
    with TemporaryDirectory() as folder:
        seen = observe(
            model, documents, Path(folder), saliency_model=None, sites=sites, advance=advance
        )
        counts = count_routing(seen).in_phase("prompt")
        used, tokens = np.asarray(counts.used).sum(1), np.asarray(counts.tokens).sum(1)
    return DocumentRouting(counts.domains, counts.layers, used, tokens, counts.domain)


def _checked(text: IdentificationText) -> IdentificationText:
    texts = {domain: len(text.ids(domain)) for domain in text.domains}
    if len(texts) < 2:
        raise UserError(
            f"{text.source} has identification text of {len(texts)} domain(s); experts can only be "
            "specific to one of two or more"
        )
    for domain, count in texts.items():
        if count < 2:
            raise UserError(
                f"{text.source}, domain {domain!r}: {count} identification text(s); whole texts "
                "are shuffled and resampled, so two or more are needed (see --limit)"
            )
    return text

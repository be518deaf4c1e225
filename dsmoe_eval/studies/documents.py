"""The routing of every document of a suite, in a model and in control models.

Where it is to be tested by influence, with the influence of every expert on the document's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..errors import UserError
from ..experts import (
    Document,
    Form,
    OutcomeItem,
    RoutingCounts,
    ScoredText,
    count_routing,
    encode_documents,
    layer_steps,
    measure_influence,
    observe,
    stepped_form,
)
from ..experts.documents import group_numbers
from ..experts.tokenizer import Tokenizer
from ..models import LoadedModel, load_model, random_weights, shuffled_routers
from ..progress import progress_bar
from ..stats import DocumentCounts, DocumentSums
from ..steering import EXPERTS, Sites
from ..tasks.identification import (
    IdentificationText,
    TextSource,
    domain_groups,
    domain_texts,
    identification_text,
)
from ..tasks.items import WithItems
from .influence import FormName
from .results import Basis, Control

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class DocumentRouting:
    """The routing of every document in a model.

    Attributes:
        domains: names; `labels` indexes them.
        layers: the model's MoE layers.
        used: [documents, layers, experts] tokens for which the expert was selected.
        tokens: [documents] tokens.
        labels: [documents] domain.
        influence: [documents, layers, experts] the change of the document's log-likelihood, in
            nats, by raising the expert by half a sigma (a neuron by half), to first order, less
            the layer's mean (that of raising any expert); None if it was not computed.
        scored: [documents] tokens that have a log-likelihood; None likewise.
    """

    domains: tuple[str, ...]
    layers: tuple[int, ...]
    used: NDArray[np.int64]
    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    influence: NDArray[np.float64] | None = None
    scored: NDArray[np.int64] | None = None

    def counts(self) -> DocumentCounts:
        """Return the counts with (layer, expert) as one axis, checked."""
        units = self.used.reshape(len(self.used), -1)
        return DocumentCounts(units, self.tokens, self.labels)

    def sums(self, by: Basis) -> DocumentSums:
        """Return the counts, or the sums of influence, with (layer, expert) as one axis.

        Raises:
            ValueError: influence was not computed, or as in `DocumentSums`.
        """
        if by == "counts":
            return self.counts()
        if self.influence is None or self.scored is None:
            raise ValueError("the influence of experts on these documents was not computed")
        return DocumentSums(
            self.influence.reshape(len(self.influence), -1), self.scored, self.labels
        )


@dataclass(frozen=True, slots=True)
class ComparedRouting:
    """The routing of a model and of control models, on the same documents.

    Attributes:
        about: what was read: model, fingerprint, dtype, device, suite, limit.
        model: the routing of the model.
        controls: the routing of every control model, one per seed: of the same shape with random
            weights, and the model with shuffled routers.
    """

    about: dict[str, object]
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
    form: FormName | None = None,
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
        form: the form in which influence is computed too; None: it is not.
        sites: as for `load_model`.

    Raises:
        UserError: unknown model or suite, or too few domains or documents.
        SteeringError: with a form, if the model's routers or experts do not allow it.
    """
    text = _checked(identification_text(source, limit, data))
    tasks, console = text.tasks, console or Console(stderr=True)
    loaded = load_model(
        name, device, dtype=dtype, attn_implementation=attn_implementation, sites=sites
    )
    identity, tokenizer = loaded.identity, loaded.tokenizer
    shape = (loaded.model.config, loaded.model.dtype, loaded.model.device)
    models, texts = 1 + 2 * len(seeds), sum(len(task.items) for task in tasks.values())
    passes, way = (1, "") if form is None else (2, ", forward and backward")
    title = f"route {texts:,} texts through {models} models{way}"
    with progress_bar(console, title, models * passes * texts, "texts") as advance:
        read = (tokenizer, tasks, advance, form, sites)
        learned = document_routing(loaded.model, *read)
        shuffled = [_shuffled(loaded, tasks, seed, advance, form) for seed in seeds]
        # Two large models may not fit in memory: each is freed before the next is loaded.
        del loaded
        random = [document_routing(random_weights(*shape, one, sites), *read) for one in seeds]
    about = {
        "model": identity.name,
        "fingerprint": identity.fingerprint,
        "dtype": str(shape[1]).removeprefix("torch."),
        "device": shape[2].type,
        **text.about,
        "limit": limit,
    } | ({} if sites == EXPERTS else {"units": sites.noun})
    return ComparedRouting(about, learned, {"random": random, "shuffled": shuffled})


def _shuffled(
    loaded: LoadedModel,
    tasks: Mapping[str, WithItems],
    seed: int,
    advance: Callable[[int], None],
    form: FormName | None,
) -> DocumentRouting:
    """Route documents through a model with shuffled routers."""
    sites = loaded.identity.sites
    with shuffled_routers(loaded.model, seed, sites):
        return document_routing(loaded.model, loaded.tokenizer, tasks, advance, form, sites)


def document_routing(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    tasks: Mapping[str, WithItems],
    advance: Callable[[int], None],
    form: FormName | None = None,
    sites: Sites = EXPERTS,
) -> DocumentRouting:
    """Route every question, without its answer, and every chunk.

    A document is a question, or a text with all its chunks. With a form, the influence of experts
    on the same texts is computed too.

    Raises:
        SteeringError: with a form, if the model's routers or experts do not allow it.
    """
    documents = encode_documents(tokenizer, domain_texts(tasks), groups=domain_groups(tasks))
    spread = form is not None
    with TemporaryDirectory() as folder:
        root = Path(folder)
        seen = observe(
            model,
            documents,
            root,
            saliency_model=None,
            spread=spread,
            sites=sites,
            advance=advance,
        )
        counts = count_routing(seen).in_phase("prompt")
        used, tokens = np.asarray(counts.used).sum(1), np.asarray(counts.tokens).sum(1)
        routing = DocumentRouting(counts.domains, counts.layers, used, tokens, counts.domain)
        if form is None:
            return routing
        influence = _influence(model, documents, counts, root, form, sites, advance)
    scored = np.bincount(group_numbers(documents), [len(one.tokens) - 1 for one in documents])
    return replace(routing, influence=influence, scored=scored.astype(np.int64))


def _influence(
    model: PreTrainedModel,
    documents: Sequence[Document],
    counts: RoutingCounts,
    root: Path,
    form: FormName,
    sites: Sites,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Compute each document's `DocumentRouting.influence`; `counts` has one row per document."""
    steps = layer_steps(counts, sites)
    items = [OutcomeItem(one.domain, (ScoredText(one.tokens, 1),)) for one in documents]
    shift = stepped_form(steps, sites) if form == "exact" else Form()
    seen = measure_influence(model, items, root, form=shift, sites=sites, advance=advance)
    total = np.zeros((len(counts.domain), *seen.influence.shape[1:]))
    np.add.at(total, np.array(group_numbers(documents)), seen.influence)
    changes = total * np.array(steps)[:, None]
    centred: NDArray[np.float64] = changes - changes.mean(-1, keepdims=True)
    return centred


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

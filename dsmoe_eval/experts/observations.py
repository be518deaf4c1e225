"""A pass over identification text that records the saliency and the routing of every token.

Saliency and routing come from the same forward and backward pass and are in the same row, so a
token's label always belongs to its routing. (The published code looks labels up by position in a
list from which blank tokens were removed.) Rows are written to disk per batch: only the current
batches are in memory, and an interrupted pass is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..steering import (
    EXPERTS,
    Site,
    Sites,
    SteeringError,
    capture_activity,
    capture_selected,
    capture_spread,
    find_sites,
    neurons_of,
    routers_of,
)
from .batching import batches, entrance, frozen, on_device, pad, token_budget
from .contribution import capture_contributions
from .documents import Document, documents_hash, group_numbers
from .passes import Advance, Compute, batch_path, pass_folder, write_batches
from .rows import Batch, counted_rows, token_columns
from .saliency import Saliency
from .tensor_files import read_tensors
from .workers import copies

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUTED_AT_ONCE = 16384
"""The number of tokens per call of another engine, which does its batching internally."""
_SELECTIONS_AT_ONCE = 2**26
"""Selected units of a batch, over its tokens and layers; of experts there are always fewer."""
_NARROW = torch.iinfo(torch.int16).max
Rows = Callable[[Sequence[int]], "Batch"]


@dataclass(frozen=True, slots=True)
class Observations:
    """A finished pass on disk.

    Attributes:
        folder: the folder of the batches, named by the hash of all inputs.
        domains: names of the domains, in the order of first appearance.
        domain: index into `domains` of each document.
        group: number of each document's group: chunks of one text are counted together.
        layers: the model's MoE layers, in the order of the batches' second axis.
        experts: number of routed experts per layer.
        top_k: number of experts selected per token.
        batches: number of batches.
        has_saliency: whether the batches include saliency.
        has_contributions: whether the batches include contributions.
        has_spread: whether the batches include the spread of the logits.
        has_activity: whether the batches include the activity of neurons.
    """

    folder: Path
    domains: tuple[str, ...]
    domain: tuple[int, ...]
    group: tuple[int, ...]
    layers: tuple[int, ...]
    experts: int
    top_k: int
    batches: int
    has_saliency: bool
    has_contributions: bool
    has_spread: bool
    has_activity: bool = False

    def read(self) -> Iterator[Batch]:
        """Yield the batches, one at a time.

        Raises:
            ValueError: a file is not what was written.
        """
        for index in range(self.batches):
            columns = read_tensors(self.file(index))
            names = ("document", "generated", "token", "experts", "weights")
            yield Batch(
                **{name: columns[name] for name in names},
                saliency=columns.get("saliency"),
                contributions=columns.get("contributions"),
                spread=columns.get("spread"),
                gated=columns.get("gated"),
                active=columns.get("active"),
            )

    def file(self, index: int, folder: Path | None = None) -> Path:
        """Return the path of a batch, in this folder or another."""
        return batch_path(folder or self.folder, index)


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a model's routing, which a pass must know in advance."""

    layers: tuple[int, ...]
    experts: int
    top_k: int


def observe(
    model: PreTrainedModel,
    documents: Sequence[Document],
    root: Path,
    *,
    saliency_model: PreTrainedModel | None,
    contributions: bool = False,
    spread: bool = False,
    activity: bool = False,
    sites: Sites = EXPERTS,
    identity: str = "",
    advance: Advance = lambda _documents: None,
) -> Observations:
    """Run the model on documents, longest first, with frozen parameters.

    Args:
        model: a transformers causal language model; its state is restored.
        documents: identification texts; see `encode_documents`.
        root: the folder in which the pass has a subfolder, named by the hash of all inputs;
            existing batches are not computed again.
        saliency_model: the model whose backward pass gives the saliency: `model`, so that one
            pass gives both; or any causal language model with the same tokens; or None for no
            saliency. In the last two cases `model` needs the memory of a forward pass only.
        contributions: whether to compute EASY-EP's and REAP's, by another forward pass of the
            experts.
        spread: whether to record the spread of the routers' logits, if there are any.
        activity: whether to record which neurons are active, if there are any.
        sites: the units that are recorded.
        identity: identity of the models and of all else that the rows depend on.
        advance: called with the number of documents done, for a progress bar.

    Raises:
        SteeringError: the model's routers, or the call or output of its experts, are not known.
    """
    found = find_sites(model, sites)
    shape = Shape(tuple(one.layer for one in found), found[0].experts, found[0].top_k)
    columns = _columns_of(saliency_model is not None, contributions, spread, activity, found)
    with frozen(model), nullcontext() if saliency_model is None else frozen(saliency_model):
        if saliency_model is None or saliency_model is model:
            pairs = [(worker, worker) for worker in copies(model)]
        else:
            pairs = list(zip(copies(model), copies(saliency_model), strict=False))
        salient = None if saliency_model is None else Saliency(saliency_model)
        workers = [
            _observer(one, sites, salient and salient.on(reader), documents, columns)
            for one, reader in pairs
        ]
        largest = _SELECTIONS_AT_ONCE // (len(found) * shape.top_k)
        budget = max(1, min(token_budget(entrance(model)), largest))
        if salient is not None:
            budget = salient.budget(budget, documents)
        return _write_pass(documents, root, shape, columns, identity, budget, workers, advance)


def _observer(
    model: PreTrainedModel,
    sites: Sites,
    salient: Saliency | None,
    documents: Sequence[Document],
    columns: tuple[str, ...],
) -> Rows:
    """Return the function that computes the rows of a batch."""
    found = find_sites(model, sites)
    routers, neurons = routers_of(found), neurons_of(found)
    contributions, spread = "contributions" in columns, "spread" in columns
    narrow = (
        torch.int16 if found[0].experts <= _NARROW else torch.int32,
        torch.bfloat16 if neurons else torch.float32,
    )

    def rows(batch: Sequence[int]) -> Batch:
        ids, mask = pad([documents[index].tokens for index in batch], entrance(model))
        saliency = None
        with (
            capture_selected(found) as routing,
            capture_contributions(model, routers) if contributions else nullcontext() as added,
            capture_spread(routers) if spread else nullcontext() as spreads,
            capture_activity(neurons) if "active" in columns else nullcontext() as active,
        ):
            if salient is not None and salient.model is model:
                saliency = salient(ids, mask)
            else:
                with torch.no_grad():
                    model(input_ids=ids, use_cache=False, logits_to_keep=1)
        if salient is not None and salient.model is not model:
            saliency = salient(*on_device(entrance(salient.model), ids, mask))
        contributed = None if added is None else added()
        more = (None if spreads is None else spreads(), None if active is None else active())
        return counted_rows(documents, batch, routing, saliency, contributed, more, narrow)

    return rows


def observe_routed(
    documents: Sequence[Document],
    routed: Callable[[Sequence[Document]], Iterable[tuple[Tensor, ...]]],
    shape: Shape,
    root: Path,
    *,
    saliency_model: PreTrainedModel | None,
    spread: bool = False,
    identity: str,
    advance: Advance = lambda _documents: None,
) -> Observations:
    """Record a pass like `observe`, with the routing that another engine reports.

    Args:
        documents: as in `observe`.
        routed: returns (experts, weights) and with `spread` the spread of each document.
        shape: the shape of the engine's model.
        root: as in `observe`.
        saliency_model: as in `observe`; the engine computes no gradients.
        spread: whether `routed` returns the spread of the logits.
        identity: as in `observe`.
        advance: as in `observe`.

    Raises:
        ValueError: the engine routed another number of tokens than a document has.
    """
    columns = _columns_of(saliency_model is not None, False, spread)
    with nullcontext() if saliency_model is None else frozen(saliency_model):
        salient = None if saliency_model is None else Saliency(saliency_model)
        narrow = torch.int16 if shape.experts <= _NARROW else torch.int32
        rows = _routed(documents, routed, salient, spread, narrow)
        return _write_pass(
            documents, root, shape, columns, identity, ROUTED_AT_ONCE, [rows], advance
        )


def _routed(
    documents: Sequence[Document],
    routed: Callable[[Sequence[Document]], Iterable[tuple[Tensor, ...]]],
    salient: Saliency | None,
    spread: bool,
    narrow: torch.dtype,
) -> Rows:
    """Return the function that computes the rows of a batch whose routing is reported."""

    def rows(batch: Sequence[int]) -> Batch:
        chosen = [documents[index] for index in batch]
        pairs = list(routed(chosen))
        for document, (experts, *_) in zip(chosen, pairs, strict=True):
            if len(experts) != len(document.tokens):
                raise ValueError(
                    f"the engine reports the routing of {len(experts)} tokens for a text of "
                    f"{len(document.tokens)}"
                )
        kept = torch.cat([torch.tensor(document.kept) for document in chosen])
        experts, weights, *more = (torch.cat(column)[kept] for column in zip(*pairs, strict=True))
        saliency = None if salient is None else salient.of_documents(chosen)[kept]
        return Batch(
            **token_columns(documents, batch), saliency=saliency, experts=experts.to(narrow),
            weights=weights.float(), contributions=None, spread=more[0].float() if spread else None,
        )  # fmt: skip

    return rows


def _columns_of(
    saliency: bool,
    contributions: bool,
    spread: bool,
    activity: bool = False,
    found: Sequence[Site] = (),
) -> tuple[str, ...]:
    """Return the columns that a pass records; neurons have no logits, and only they an activity.

    Raises:
        SteeringError: contributions of neurons.
    """
    neurons = bool(neurons_of(found))
    if contributions and neurons:
        raise SteeringError(
            "easy-ep and reap score the outputs of routed experts, which a dense model lacks; take "
            "another method for neurons, such as dsmoe or frequency"
        )
    kinds = (("saliency",), ("contributions", "gated"), ("spread",), ("active",))
    recorded = (saliency, contributions, spread and not neurons, activity and neurons)
    return tuple(
        name for kind, wanted in zip(kinds, recorded, strict=True) if wanted for name in kind
    )


def _write_pass(
    documents: Sequence[Document],
    root: Path,
    shape: Shape,
    columns: tuple[str, ...],
    identity: str,
    budget: int, workers: Sequence[Rows], advance: Advance,
) -> Observations:  # fmt: skip
    """Run the workers on batches of documents, and write the batches that do not exist yet."""
    plan = batches(documents, budget)
    folder = pass_folder(
        root, [identity, asdict(shape), columns, documents_hash(documents), budget]
    )
    write_batches(folder, plan, [_tensors_of(rows) for rows in workers], advance)
    domains = tuple(dict.fromkeys(one.domain for one in documents))
    return Observations(
        folder=folder,
        domains=domains,
        domain=tuple(domains.index(one.domain) for one in documents),
        group=group_numbers(documents),
        layers=shape.layers, experts=shape.experts, top_k=shape.top_k, batches=len(plan),
        has_saliency="saliency" in columns,
        has_contributions="contributions" in columns,
        has_spread="spread" in columns,
        has_activity="active" in columns,
    )  # fmt: skip


def _tensors_of(rows: Rows) -> Compute:
    return lambda batch: rows(batch).tensors()

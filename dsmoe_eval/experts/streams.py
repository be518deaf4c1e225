"""The mean of the residual stream after each decoder layer, by domain, over identification text.

One pass over the documents gives all layers and domains. Sums are in float64, over the tokens that
count: no special ones, none of a chat template. They are written to disk after each batch, and an
interrupted pass is resumed to the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..steering import EXPERTS, Sites, decoder_layers, find_sites, hidden_size, watched
from .batching import batches, entrance, frozen, pad, token_budget
from .counts import Floats
from .documents import Document, Phase, documents_hash
from .tensor_files import read_tensors, save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Advance = Callable[[int], None]
Sums = Callable[[Sequence[int]], Tensor]
"""A function that adds up the streams of some documents, by their index: [domains, layers, hidden]
in float64."""


@dataclass(frozen=True, slots=True)
class StreamMeans:
    """Sums of the residual stream.

    Attributes:
        domains: names of the domains, in the order of first appearance.
        tokens: [domains], the number of tokens of each.
        sums: [domains, layers, hidden] float64, over these tokens.
    """

    domains: tuple[str, ...]
    tokens: Floats
    sums: Floats

    @property
    def layers(self) -> int:
        """The number of decoder layers."""
        return int(self.sums.shape[1])

    def difference(self, domain: str) -> Floats:
        """Compute the mean over a domain's tokens less that over all other domains' tokens.

        Returns:
            [layers, hidden].

        Raises:
            ValueError: there is no text of that domain, or of no other.
        """
        if domain not in self.domains or len(self.domains) < 2:
            raise ValueError(f"a mean difference needs text of {domain!r} and of another domain")
        own = np.array([name == domain for name in self.domains])
        inside, outside = (self.sums[m].sum(0) / self.tokens[m].sum() for m in (own, ~own))
        difference: Floats = inside - outside
        return difference


def in_phase(documents: Sequence[Document], phase: Phase) -> tuple[Document, ...]:
    """Return the documents with only the tokens of a phase to be counted.

    Raises:
        ValueError: a domain has no token in that phase.
    """
    chosen = []
    for one in documents:
        answered = [position >= one.prompt_length for position in range(len(one.tokens))]
        keep = (
            k and (a == (phase == "generated")) for k, a in zip(one.kept, answered, strict=True)
        )
        chosen.append(replace(one, kept=tuple(keep)))
    empty = {one.domain for one in chosen} - {one.domain for one in chosen if any(one.kept)}
    if empty:
        raise ValueError(f"domains without a {phase} token: {', '.join(sorted(empty))}")
    return tuple(chosen)


def mean_streams(
    model: PreTrainedModel,
    documents: Sequence[Document],
    root: Path,
    *,
    sites: Sites = EXPERTS,
    identity: str = "",
    advance: Advance = lambda _documents: None,
) -> StreamMeans:
    """Run the model on documents and add up the residual stream after each of its decoder layers.

    Args:
        model: a transformers causal language model; its state is restored.
        documents: identification texts; see `encode_documents`.
        root: the folder in which the pass has a file, named by the hash of all inputs.
        sites: the units of the model, by which its decoder layers are found.
        identity: identity of the model and of all else that the sums depend on.
        advance: called with the number of documents done, for a progress bar.

    Raises:
        SteeringError: the model has no known routers, or none in a list of decoder layers.
        ValueError: the file is not what was written.
    """
    layers, width = decoder_layers(model, find_sites(model, sites)), hidden_size(model)
    domains = _domains(documents)

    def sums(batch: Sequence[int]) -> Tensor:
        chosen = [documents[index] for index in batch]
        ids, _ = pad([one.tokens for one in chosen], entrance(model))
        kept = pad([one.kept for one in chosen])[0].bool()
        rows = torch.tensor([domains.index(one.domain) for one in chosen])
        row = rows.unsqueeze(1).expand_as(kept)[kept]
        total = torch.zeros(len(domains), len(layers), width, dtype=torch.float64)

        def add(layer: int, hidden: Tensor) -> None:
            total[:, layer] += add_up(hidden.cpu()[kept], row, len(domains))

        with torch.no_grad(), watched(layers, range(len(layers)), add):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
        return total

    with frozen(model):
        plan = batches(documents, token_budget(entrance(model)))
        return sum_streams(documents, plan, sums, root, identity=identity, advance=advance)


def add_up(states: Tensor, row: Tensor, rows: int) -> Tensor:
    """Add up states [tokens, hidden] by the `row` of each token; return [rows, hidden] float64."""
    member = torch.nn.functional.one_hot(row.long(), rows).double()
    return member.T @ states.double()


def sum_streams(
    documents: Sequence[Document],
    plan: Sequence[Sequence[int]],
    sums: Sums,
    root: Path,
    *,
    identity: str,
    advance: Advance,
) -> StreamMeans:
    """Add up the batches of a plan in order, from where an earlier pass stopped.

    Args:
        documents: as in `mean_streams`.
        plan: the batches, each the indices of some documents.
        sums: adds up the streams of a batch.
        root: as in `mean_streams`.
        identity: as in `mean_streams`.
        advance: as in `mean_streams`.

    Raises:
        ValueError: the file is not what was written.
    """
    key = json.dumps(["streams", identity, documents_hash(documents), plan])
    path = root / f"streams-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    root.mkdir(parents=True, exist_ok=True)
    done, total = 0, torch.zeros(())
    if path.is_file():
        stored = read_tensors(path)
        done, total = int(stored["done"]), stored["sums"]
        advance(sum(len(batch) for batch in plan[:done]))
    for number, batch in enumerate(plan[done:], start=done + 1):
        total = total + sums(batch)
        save_tensors(path, {"done": torch.tensor(number), "sums": total.contiguous()})
        advance(len(batch))
    domains = _domains(documents)
    tokens = [sum(sum(o.kept) for o in documents if o.domain == domain) for domain in domains]
    return StreamMeans(domains, np.array(tokens, dtype=np.float64), total.numpy())


def _domains(documents: Sequence[Document]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(document.domain for document in documents))

"""The passes to time: ours, the published code, and our re-implementation of its procedure."""

from __future__ import annotations

import importlib
import io
import json
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from quiz import Item

from dsmoe_eval.experts import (
    Observations,
    RoutingCounts,
    count_routing,
    encode_documents,
    observe,
)
from dsmoe_eval.experts.rows import Batch
from dsmoe_eval.steering import capture_routing, find_routers

QUANTILE = 0.15
PUBLISHED_MODULE = "analysis_specialize.token_expert_analysis"
FUNCTION_WORDS = frozenset({"a", "i"})
"""Of the English stop words, those that an item of made-up words can hold: option letters."""

Labels = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What a pass says of all tokens, items in their order.

    Attributes:
        salient: [tokens].
        judged: [tokens], False where the pass goes by the token's spelling and not its saliency.
        experts: [tokens, layers, k], the selected experts in ascending order.
        used: [layers, experts], the pass's own count of tokens for which the expert was selected.
        used_salient: the same over salient tokens.
    """

    salient: Labels
    judged: Labels
    experts: Counts
    used: Counts
    used_salient: Counts


class Arm(Protocol):
    """A pass: `run` is timed, `read` turns what it gave into `Found` and is not."""

    name: str

    def run(self) -> Any:
        """The whole pass over all items, from text to counts."""

    def read(self, raw: Any) -> Found:
        """What `run` gave, in the form that all passes share."""


@dataclass(frozen=True)
class Subject:
    """What all passes work on."""

    model: Any
    tokenizer: Any
    items: Sequence[Item]

    def token_ids(self) -> list[list[int]]:
        """By item."""
        ids: list[list[int]] = self.tokenizer([item.text() for item in self.items])["input_ids"]
        return ids


@dataclass(frozen=True)
class Ours:
    """The pass of this package: everything about its interface that this benchmark knows."""

    subject: Subject
    name: str = "dsmoe-eval"

    def run(self) -> tuple[list[Batch], RoutingCounts]:
        """Observe and count, on disk as everywhere."""
        with tempfile.TemporaryDirectory() as folder:
            seen = self.observe(Path(folder))
            return list(seen.read()), count_routing(seen, QUANTILE).in_phase("prompt")

    def observe(self, folder: Path) -> Observations:
        """The pass alone."""
        texts = {"all": [item.text() for item in self.subject.items]}
        documents = encode_documents(self.subject.tokenizer, texts)
        return observe(self.subject.model, documents, folder, saliency_model=self.subject.model)

    def read(self, raw: tuple[list[Batch], RoutingCounts]) -> Found:
        """Tokens come longest text first, each with the number of its item."""
        batches, counts = raw
        item, saliency, experts = (
            torch.cat([getattr(batch, name) for batch in batches]).numpy()
            for name in ("document", "saliency", "experts")
        )
        order = np.argsort(item, kind="stable")
        sums = counts.total()
        assert sums.salient is not None  # noqa: S101 - the pass computed saliency
        return Found(
            salient=(saliency > np.quantile(saliency, QUANTILE))[order],
            judged=np.ones(len(order), dtype=bool),
            experts=np.sort(experts[order].astype(np.int64), axis=-1),
            used=sums.used.astype(np.int64),
            used_salient=sums.salient.astype(np.int64),
        )


class Published:
    """The published code, from a checkout of it; on the CPU, with its default settings."""

    name = "published pipeline"

    def __init__(self, subject: Subject, checkout: Path) -> None:
        self.subject = subject
        sys.path.insert(0, str(checkout))
        try:
            self.code = importlib.import_module(PUBLISHED_MODULE)
        finally:
            sys.path.remove(str(checkout))

    def run(self) -> tuple[Mapping[tuple[int, int], Mapping[str, int]], list[dict[str, Any]]]:
        """Its counts, and its labels as it saves them."""
        subject = self.subject
        subject.model.zero_grad()
        examples = [{"question": i.question, "options": list(i.options)} for i in subject.items]
        with tempfile.TemporaryDirectory() as place, _silence():
            counts = self.code.analyze_domain_data(
                subject.model, subject.tokenizer, examples, importance_threshold=100 * QUANTILE,
                device="cpu", save_tokens=True, domain="all", model_name="random",
                output_dir=place,
            )  # fmt: skip
            (saved,) = Path(place).rglob("*.json")
            labels = json.loads(saved.read_text())["all_tokens"]
        subject.model.zero_grad()
        return counts, labels

    def read(self, raw: Any) -> Found:
        """Labels by item and position, as its indices into all tokens may have drifted."""
        counts, labels = raw
        subject = self.subject
        ids = subject.token_ids()
        starts = np.cumsum([0] + [len(row) for row in ids])
        salient, judged = np.zeros(starts[-1], dtype=bool), np.zeros(starts[-1], dtype=bool)
        for label in labels:
            at = starts[label["example_idx"]] + label["token_idx"]
            salient[at] = label["classification"] == "important"
            word = label["token"]
            judged[at] = not (word in string.punctuation or word.lower() in self.code.STOPWORDS)
        routed = []
        for row in ids:
            layers = self.code.capture_expert_activations(
                subject.model, subject.tokenizer, torch.tensor([row]), "cpu"
            )
            routed += [[layers[layer][at] for layer in sorted(layers)] for at in range(len(row))]
        return Found(
            salient=salient,
            judged=judged,
            experts=np.sort(np.array(routed), axis=-1),
            used=_table(subject.model, {key: n["total"] for key, n in counts.items()}),
            used_salient=_table(subject.model, {key: n["important"] for key, n in counts.items()}),
        )


@dataclass(frozen=True)
class Procedure:
    """Our re-implementation of the published procedure, from a description of it.

    One text at a time; every parameter wants a gradient and keeps adding up; a second forward pass
    for the routing; labels and counts token by token in Python. Its one departure: labels do not
    drift from their tokens.
    """

    subject: Subject
    name: str = "published procedure (re-implemented)"

    def run(self) -> tuple[Labels, Labels, list[list[list[int]]], Counter[Any], Counter[Any]]:
        """Labels, whether by saliency, routing, and both counts."""
        self.subject.model.zero_grad()
        words = [[self.subject.tokenizer.decode([i]) for i in row[0]] for row in self._ids()]
        saliency = [self._saliency(ids) for ids in self._ids()]
        cut = np.percentile([value for row in saliency for value in row], 100 * QUANTILE)
        salient, judged = [], []
        for row, values in zip(words, saliency, strict=True):
            for word, value in zip(row, values, strict=True):
                judged.append(word not in string.punctuation and word.lower() not in FUNCTION_WORDS)
                salient.append(judged[-1] and value > cut)
        routed, used, used_salient = [], Counter[Any](), Counter[Any]()
        for ids in self._ids():
            for layers in self._routing(ids):
                important = salient[len(routed)]
                routed.append(layers)
                for layer, experts in enumerate(layers):
                    for expert in experts:
                        used[layer, expert] += 1
                        if important:
                            used_salient[layer, expert] += 1
        self.subject.model.zero_grad()
        return np.array(salient), np.array(judged), routed, used, used_salient

    def read(self, raw: Any) -> Found:
        """As arrays."""
        salient, judged, routed, used, used_salient = raw
        model = self.subject.model
        experts = np.sort(np.array(routed), axis=-1)
        return Found(salient, judged, experts, _table(model, used), _table(model, used_salient))

    def _ids(self) -> list[torch.Tensor]:
        tokenize, device = self.subject.tokenizer, self.subject.model.device
        items = self.subject.items
        return [tokenize(item.text(), return_tensors="pt").input_ids.to(device) for item in items]

    def _saliency(self, ids: torch.Tensor) -> list[float]:
        model = self.subject.model
        embeddings = model.get_input_embeddings()(ids)
        embeddings.retain_grad()
        model(inputs_embeds=embeddings, labels=ids, use_cache=False).loss.backward()
        values: list[float] = (embeddings.grad * embeddings).norm(dim=-1)[0].tolist()
        return values

    @torch.no_grad()
    def _routing(self, ids: torch.Tensor) -> list[list[list[int]]]:
        model = self.subject.model
        with capture_routing(find_routers(model)) as routing:
            model(input_ids=ids, use_cache=False)
        chosen: list[list[list[int]]] = routing.indices().tolist()
        return chosen


def agreement(mine: Found, theirs: Found) -> dict[str, float]:
    """Shares on which two passes agree where both go by saliency, each 1 if all is well.

    `counts` compares `theirs` own counts with a recount of `mine` over the tokens it counted.
    """
    both = mine.judged & theirs.judged
    recount = [
        np.bincount(layer.ravel(), minlength=theirs.used.shape[1])
        for layer in mine.experts[mine.salient & both].transpose(1, 0, 2)
    ]
    return {
        "tokens": len(both),
        "judged": float(both.mean()),
        "labels": float((mine.salient == theirs.salient)[both].mean()),
        "routing": float((mine.experts == theirs.experts).all((1, 2)).mean()),
        "counts": float((mine.used == theirs.used).mean()),
        "counts_salient": float((np.array(recount) == theirs.used_salient).mean()),
    }


def _table(model: Any, counts: Mapping[tuple[int, int], int]) -> Counts:
    routers = find_routers(model)
    table = np.zeros((len(routers), routers[0].experts), dtype=np.int64)
    rows = {router.layer: row for row, router in enumerate(routers)}
    for (layer, expert), count in counts.items():
        table[rows[layer], expert] = count
    return table


@contextmanager
def _silence() -> Iterator[None]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield

"""Routing counts by document: the one thing that every score, and every test, is computed from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .documents import Phase
from .observations import Batch, Observations

SALIENCY_QUANTILE = 0.15
"""Eq. 8's threshold: the paper calls 0.15 to 0.5 effective and its code uses 0.15."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Marker:
    """A token whose routing `npmi` looks at, and the sign and weight that it has in the score."""

    text: str
    token: int
    coefficient: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the documents of one domain in one phase, each counted by its weight.

    Attributes:
        documents: number.
        tokens: number, of which `salient_tokens` are salient (the paper's S; the rest is its C).
        used: [layers, experts] tokens for which the expert was selected.
        salient: of those, the salient ones; None where no saliency was computed.
        gate_mean: [layers, experts] mean over documents of the mean over tokens of the expert's
            weight (0 where it is not selected).
        use_mean: the same of 1 / k where it is selected.
        contribution: sum over tokens of what it contributes (EASY-EP); None where not computed.
        marked: [markers, layers, experts] uses at each marker token.
        marker_tokens: [markers] how often the marker stands in the text.
    """

    documents: float
    tokens: float
    salient_tokens: float
    used: Floats
    salient: Floats | None
    gate_mean: Floats
    use_mean: Floats
    contribution: Floats | None
    marked: Floats
    marker_tokens: Floats


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """How often each (layer, expert) was selected, by document, phase and token class.

    A row is one document in one phase: what the user wrote, or what the model answered.

    Attributes:
        domains: names; `domain` indexes them.
        layers: the model's MoE layers, in the order of every layers axis.
        top_k: experts selected for each token.
        markers: tokens whose routing is counted by itself.
        domain: [rows] index into `domains`.
        generated: [rows] whether the row's tokens are the model's own.
        weight: [rows] how often the document counts; 1 but in resamples.
        tokens: [rows, 2] common and salient tokens.
        used: [rows, 2, layers, experts] uses by common and by salient tokens.
        gate: [rows, layers, experts] sums of weights.
        contribution: [rows, layers, experts] sums of contributions, or None.
        marker_tokens: [rows, markers].
        marked: [rows, markers, layers, experts] uses at marker tokens.
        has_saliency: where False, every token stands in the first class.
    """

    domains: tuple[str, ...]
    layers: tuple[int, ...]
    top_k: int
    markers: tuple[Marker, ...]
    domain: NDArray[np.int64]
    generated: NDArray[np.bool_]
    weight: Floats
    tokens: NDArray[np.int64]
    used: NDArray[np.int32]
    gate: NDArray[np.float32]
    contribution: NDArray[np.float32] | None
    marker_tokens: NDArray[np.int64]
    marked: NDArray[np.int32]
    has_saliency: bool
    _known: dict[str, Sums] = field(init=False, default_factory=dict, repr=False, compare=False)

    @property
    def experts(self) -> int:
        """Routed experts a layer."""
        return int(self.used.shape[-1])

    def in_phase(self, phase: Phase) -> RoutingCounts:
        """The rows of one phase.

        Raises:
            ValueError: a domain has no token in that phase.
        """
        rows = np.flatnonzero((self.generated == (phase == "generated")) & (self.tokens.sum(1) > 0))
        missing = set(range(len(self.domains))) - set(self.domain[rows].tolist())
        if missing:
            names = ", ".join(self.domains[index] for index in sorted(missing))
            raise ValueError(f"there is no {phase} token of {names}")
        return self._take(rows)

    def resampled(self, weight: Floats) -> RoutingCounts:
        """The same rows, each counted `weight` times."""
        return replace(self, weight=weight)

    def of(self, domain: str) -> Sums:
        """Sums over one domain.

        Raises:
            ValueError: no text of that domain was seen.
        """
        if domain not in self.domains:
            raise ValueError(f"no text of domain {domain!r} was seen; seen: {list(self.domains)}")
        return self._sums(f"={domain}", self.domain == self.domains.index(domain))

    def all_but(self, domain: str) -> Sums:
        """Sums over all other domains.

        Raises:
            ValueError: there is none.
        """
        if len(self.domains) < 2:
            raise ValueError("a comparison of domains needs text of at least one other domain")
        return self._sums(f"-{domain}", self.domain != self.domains.index(domain))

    def total(self) -> Sums:
        """Sums over all domains."""
        return self._sums("*", np.ones(len(self.domain), dtype=bool))

    def _take(self, rows: NDArray[np.int64]) -> RoutingCounts:
        return replace(
            self,
            domain=self.domain[rows],
            generated=self.generated[rows],
            weight=self.weight[rows],
            tokens=self.tokens[rows],
            used=self.used[rows],
            gate=self.gate[rows],
            contribution=None if self.contribution is None else self.contribution[rows],
            marker_tokens=self.marker_tokens[rows],
            marked=self.marked[rows],
        )

    def _sums(self, name: str, mask: NDArray[np.bool_]) -> Sums:
        if name not in self._known:  # every method asks for the same few
            self._known[name] = self._add_up(mask)
        return self._known[name]

    def _add_up(self, mask: NDArray[np.bool_]) -> Sums:
        rows = np.flatnonzero(mask & (self.weight > 0) & (self.tokens.sum(1) > 0))
        weight = self.weight[rows]

        def add(values: NDArray[np.generic]) -> Floats:
            return np.tensordot(weight, values[rows].astype(np.float64), axes=1)

        tokens, used = add(self.tokens), add(self.used)
        share = weight / weight.sum() / self.tokens[rows].sum(1)
        uses = self.used[rows].sum(1).astype(np.float64)
        return Sums(
            documents=float(weight.sum()),
            tokens=float(tokens.sum()),
            salient_tokens=float(tokens[1]),
            used=used.sum(0),
            salient=used[1] if self.has_saliency else None,
            gate_mean=np.tensordot(share, self.gate[rows].astype(np.float64), axes=1),
            use_mean=np.tensordot(share, uses, axes=1) / self.top_k,
            contribution=None if self.contribution is None else add(self.contribution),
            marked=add(self.marked),
            marker_tokens=add(self.marker_tokens),
        )


def count_routing(
    observations: Observations,
    quantile: float = SALIENCY_QUANTILE,
    markers: Sequence[Marker] = (),
) -> RoutingCounts:
    """Count a pass.

    A token is salient when it lies above the `quantile` of its own domain's saliency, in its own
    phase. The counts lie beside the pass, on disk, and are mapped into memory: what stays resident
    is 4 bytes a token for the quantiles, and one batch.

    Args:
        observations: of a finished pass.
        quantile: of saliency; its value is the share of common tokens.
        markers: tokens to be counted by themselves.
    """
    name = hashlib.sha256(json.dumps([quantile, [m.token for m in markers]]).encode()).hexdigest()
    folder = observations.folder / f"counts-{name[:16]}"
    done = folder / "done"
    if not done.is_file():
        folder.mkdir(exist_ok=True)
        _count(observations, folder, quantile, [marker.token for marker in markers])
        done.touch()
    columns = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    documents = len(observations.domain)
    return RoutingCounts(
        domains=observations.domains,
        layers=observations.layers,
        top_k=observations.top_k,
        markers=tuple(markers),
        domain=np.repeat(np.array(observations.domain), 2),
        generated=np.tile([False, True], documents),
        weight=np.ones(2 * documents),
        tokens=columns["tokens"],
        used=columns["used"],
        gate=columns["gate"],
        contribution=columns["contribution"] if observations.has_contributions else None,
        marker_tokens=columns["marker_tokens"],
        marked=columns["marked"],
        has_saliency=observations.has_saliency,
    )


def _count(seen: Observations, folder: Path, quantile: float, markers: Sequence[int]) -> None:
    rows, cell = 2 * len(seen.domain), (len(seen.layers), seen.experts)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "tokens": ((rows, 2), np.int64),
        "used": ((rows, 2, *cell), np.int32),
        "gate": ((rows, *cell), np.float32),
        "marker_tokens": ((rows, len(markers)), np.int64),
        "marked": ((rows, len(markers), *cell), np.int32),
    }
    if seen.has_contributions:
        shapes["contribution"] = ((rows, *cell), np.float32)
    whole = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    }
    thresholds = _thresholds(seen, quantile)
    for batch in seen.read():
        for name, (row, values) in _batch_counts(seen, batch, thresholds, markers).items():
            whole[name][row] = values
    for array in whole.values():
        array.flush()


def _thresholds(seen: Observations, quantile: float) -> Floats:
    """[domains, 2] saliency above which a token is salient, by phase; nan where there is none."""
    thresholds = np.full((len(seen.domains), 2), np.nan)
    if not seen.has_saliency:
        return thresholds
    owner, found = np.array(seen.domain), []
    for batch in seen.read():
        place = 2 * owner[batch.document.numpy()] + batch.generated.numpy()
        assert batch.saliency is not None  # noqa: S101 - what has_saliency says
        found.append((place, batch.saliency.numpy()))
    place, saliency = (np.concatenate(column) for column in zip(*found, strict=True))
    for index in np.unique(place):
        thresholds.flat[index] = np.quantile(saliency[place == index], quantile)
    return thresholds


def _batch_counts(
    seen: Observations, batch: Batch, thresholds: Floats, markers: Sequence[int]
) -> dict[str, tuple[NDArray[np.int64], NDArray[Any]]]:
    """Column -> (rows of the batch's documents, their values)."""
    generated = batch.generated.numpy().astype(np.int64)
    row = 2 * batch.document.numpy().astype(np.int64) + generated
    rows, local = np.unique(row, return_inverse=True)
    limit = thresholds[np.array(seen.domain)[batch.document.numpy()], generated]
    salient = np.zeros(len(row), dtype=np.int64)
    if batch.saliency is not None:
        salient = (batch.saliency.numpy() > limit).astype(np.int64)
    layers, experts = len(seen.layers), seen.experts
    cell = np.arange(layers)[:, None] * experts + batch.experts.numpy()  # [tokens, layers, k]

    def table(group: NDArray[np.int64], cells: Any, *shape: int, by: Tensor | None = None) -> Any:
        """Sums over tokens by (group, layer, expert), of 1 or of `by`."""
        flat = (group[:, None, None] * (layers * experts) + cells).ravel()
        values = None if by is None else by.numpy().ravel()
        shape = (*shape, layers, experts)
        return np.bincount(flat, values, math.prod(shape)).reshape(shape)

    count = len(rows)
    marked = np.zeros((count, len(markers), layers, experts), dtype=np.int64)
    marker_tokens = np.zeros((count, len(markers)), dtype=np.int64)
    for place, token in enumerate(markers):
        at = batch.token.numpy() == token
        marked[:, place] = table(local[at], cell[at], count)
        marker_tokens[:, place] = np.bincount(local[at], minlength=count)
    columns = {
        "tokens": np.bincount(2 * local + salient, minlength=2 * count).reshape(count, 2),
        "used": table(2 * local + salient, cell, count, 2),
        "gate": table(local, cell, count, by=batch.weights),
        "marker_tokens": marker_tokens,
        "marked": marked,
    }
    if batch.contributions is not None:
        columns["contribution"] = table(local, cell, count, by=batch.contributions)
    return {name: (rows, values) for name, values in columns.items()}

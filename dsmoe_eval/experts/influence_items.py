"""The influence of experts on outcomes of items, from that on the log-likelihoods of their texts.

An item's outcome is the (scaled) log-likelihood of its one text, or the log-probability of its
right options among all: log softmax over the options' log-likelihoods. Its second derivative is
that of the expected Fisher information, on the diagonal:

- options with probabilities p_r and influences h_r: -sum of p_r (h_r - sum of p h)^2. It is exact
  for the divergence from the unshifted model, of which no right answer is part.
- one text of n tokens: minus the square of the sum's influence, times the scale. (Tokens' scores
  are uncorrelated under the model, so that the square of the sum estimates the sum of squares.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..steering import EXPERTS, Sites, find_sites
from .batching import batches, entrance, frozen, token_budget
from .influence import Form, Influence, ScoredText
from .passes import Advance, Compute, batch_path, pass_folder, write_batches
from .tensor_files import read_tensors
from .workers import copies

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)
_IN_MEMORY = 2**25
"""Numbers of a table that is kept in memory."""


@dataclass(frozen=True, slots=True)
class OutcomeItem:
    """An item with an outcome.

    Attributes:
        domain: its domain.
        texts: its options' texts, or its one text.
        rights: indices of the right options; empty if the outcome is a log-likelihood.
        scales: what each text's log-likelihood is multiplied by first; empty: 1.
        cluster: items of one cluster are not independent of one another; empty: only itself.
    """

    domain: str
    texts: tuple[ScoredText, ...]
    rights: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    cluster: str = ""

    def weights(self, likelihoods: Floats) -> tuple[float, Floats, Floats]:
        """Return the outcome, d(outcome)/d(log-likelihood) of each text, and probabilities."""
        values = likelihoods * (self.scales or 1.0)
        scales = np.array(self.scales or [1.0] * len(values))
        if not self.rights:
            return float(values.sum()), scales, np.ones(len(values))
        shares = np.exp(values - values.max())
        shares /= shares.sum()
        right = np.zeros_like(shares)
        right[list(self.rights)] = np.exp(values[list(self.rights)] - values.max())
        total = right.sum()
        outcome = math.log(total) - math.log(np.exp(values - values.max()).sum())
        return outcome, (right / total - shares) * scales, shares


@dataclass(frozen=True, slots=True)
class Effect:
    """The mean influence on the items of a domain.

    Attributes:
        mean: [layers, experts], of the outcome, per unit of the shift.
        error: [layers, experts], its standard error by clusters; infinite with one cluster.
        curvature: [layers, experts], the mean second derivative, at most 0.
        outcome: the mean outcome without a shift.
        items: the number of items.
        clusters: the number of clusters.
    """

    mean: Floats
    error: Floats
    curvature: Floats
    outcome: float
    items: int
    clusters: int

    @property
    def t(self) -> Floats:
        """Mean by standard error, [layers, experts]; 0 where both are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.mean == 0, 0.0, self.mean / self.error)


@dataclass(frozen=True, slots=True)
class InfluenceItems:
    """The influence of every expert on every item.

    Attributes:
        items: the items.
        layers: the model's MoE layers, in the order of the second axis.
        outcome: [items], the outcomes without a shift.
        influence: [items, layers, experts], per unit of the shift.
        curvature: [items, layers, experts], second derivatives.
        domains: the items' domains, in the order of first appearance.
    """

    items: tuple[OutcomeItem, ...]
    layers: tuple[int, ...]
    outcome: Floats
    influence: NDArray[np.float32]
    curvature: NDArray[np.float32]
    domains: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """List the domains."""
        domains = tuple(dict.fromkeys(one.domain for one in self.items))
        object.__setattr__(self, "domains", domains)

    def of(self, domain: str) -> Effect:
        """Average over the items of a domain.

        Raises:
            ValueError: there is no item of that domain.
        """
        if domain not in self.domains:
            raise ValueError(f"no item of domain {domain!r}; there are: {', '.join(self.domains)}")
        return self.mean([at for at, one in enumerate(self.items) if one.domain == domain])

    def mean(self, rows: Sequence[int]) -> Effect:
        """Average over some items, with the standard error of a mean of clusters."""
        values = self.influence[rows].astype(np.float64)
        names: dict[object, int] = {}
        of = [names.setdefault(self.items[r].cluster or r, len(names)) for r in rows]
        mean = values.mean(0)
        sums = np.zeros((len(names), *mean.shape))
        np.add.at(sums, of, values - mean)
        count = len(names)
        factor = count / (count - 1) if count > 1 else np.inf
        with np.errstate(invalid="ignore"):
            error = np.sqrt((sums**2).sum(0)) * math.sqrt(factor) / len(rows)
        error = np.full_like(mean, np.inf) if count == 1 else error
        curvature = self.curvature[rows].astype(np.float64).mean(0)
        outcome = float(self.outcome[rows].mean())
        return Effect(mean, error, curvature, outcome, len(rows), count)


def domain_tables(
    seen: InfluenceItems,
    gains: Mapping[str, Sequence[int]],
    kept: Mapping[str, Sequence[int]],
    steps: Sequence[float],
) -> Floats:
    """Average what the methods need: [domains, 2, layers, experts], per unit of the shift.

    The first is the mean influence on the items that are to gain. The second is the mean change of
    the others by each layer's step, to second order, by that step.

    Args:
        seen: the influence on all items.
        gains: domain -> the rows of the items that are to gain.
        kept: domain -> the rows of those that must not change; domains in the same order.
        steps: each layer's step.
    """
    half = np.array(steps)[:, None] / 2
    tables = []
    for domain in gains:
        other = seen.mean(kept[domain])
        tables.append([seen.mean(gains[domain]).mean, other.mean + half * other.curvature])
    return np.array(tables)


def measure_influence(
    model: PreTrainedModel,
    items: Sequence[OutcomeItem],
    root: Path,
    *,
    form: Form,
    identity: str = "",
    sites: Sites = EXPERTS,
    advance: Advance = lambda _texts: None,
) -> InfluenceItems:
    """Compute the influence of every expert on items, longest texts first.

    Args:
        model: a causal language model of transformers; its state is restored.
        items: the items.
        root: the folder in which the pass has a subfolder, named by the hash of all inputs;
            existing batches are not computed again.
        form: what is shifted.
        identity: identity of the model and of all else that the values depend on.
        sites: the units, experts or neurons.
        advance: called with the number of texts done, for a progress bar.

    Raises:
        SteeringError: the model's routers or experts do not allow it.
        ValueError: a file is not what was written.
    """
    texts = [text for item in items for text in item.texts]
    with frozen(model):
        influence = Influence(model, form, sites)
        # Copies share the correction bias, which the channel of scores changes for a while.
        twins = [model] if form.channel == "score" else copies(model)
        budget = influence.budget(token_budget(entrance(model)), texts)
        plan = batches(texts, budget)
        key = ["influence", identity, asdict(form), [asdict(one) for one in texts], budget]
        key += [] if sites == EXPERTS else [sites.model_dump()]
        folder = pass_folder(root, key)
        workers = [_computing(influence.on(twin), texts) for twin in twins]
        write_batches(folder, plan, workers, advance)
    layers = tuple(site.layer for site in find_sites(model, sites))
    return _combined(tuple(items), layers, folder, plan)


def _computing(influence: Influence, texts: Sequence[ScoredText]) -> Compute:
    def compute(batch: Sequence[int]) -> dict[str, Tensor]:
        value, slope = influence([texts[index] for index in batch])
        return {"likelihood": value.contiguous(), "influence": slope.contiguous()}

    return compute


def _combined(
    items: tuple[OutcomeItem, ...],
    layers: tuple[int, ...],
    folder: Path,
    plan: Sequence[Sequence[int]],
) -> InfluenceItems:
    """Combine the texts' values, whose batches are read twice: an item's texts may be in several.

    The first time gives the log-likelihoods, and with them each text's weight in its item.
    """
    owner = [at for at, item in enumerate(items) for _ in item.texts]
    likelihoods = np.zeros(len(owner))
    for batch, tensors in _read(folder, plan):
        likelihoods[batch] = tensors["likelihood"].double().numpy()
    outcome, weight, share = np.zeros(len(items)), np.zeros(len(owner)), np.zeros(len(owner))
    start = 0
    for at, item in enumerate(items):
        of = slice(start, start := start + len(item.texts))
        outcome[at], weight[of], share[of] = item.weights(likelihoods[of])
    scales = np.array([s for one in items for s in one.scales or [1.0] * len(one.texts)])
    first: Floats | None = None
    for batch, tensors in _read(folder, plan):
        values = tensors["influence"].double().numpy()
        if first is None:
            shape = (len(items), *values.shape[1:])
            first, mean, square = (_table(folder, shape, np.float64) for _ in range(3))
        for value, text in zip(values, batch, strict=True):
            at, inner = owner[text], value * scales[text]
            first[at] += weight[text] * value
            mean[at] += share[text] * inner
            square[at] += share[text] * inner**2
    if first is None:
        raise ValueError("there is no item whose outcome experts could influence")
    influence, curvature = (_table(folder, first.shape, np.float32) for _ in range(2))
    for at, item in enumerate(items):
        influence[at] = first[at]
        # Of one text: (scale * gradient)^2 / scale.
        each = (item.scales or (1.0,))[0]
        curvature[at] = mean[at] ** 2 - square[at] if item.rights else -square[at] / each
    return InfluenceItems(items, layers, outcome, influence, curvature)


def _table(folder: Path, shape: tuple[int, ...], dtype: type[Real]) -> NDArray[Real]:
    """Return zeros: of neurons, of which there may be millions, in a nameless file on the disk."""
    if math.prod(shape) <= _IN_MEMORY:
        return np.zeros(shape, dtype)
    with TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _read(
    folder: Path, plan: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    for index, batch in enumerate(plan):
        yield list(batch), read_tensors(batch_path(folder, index))

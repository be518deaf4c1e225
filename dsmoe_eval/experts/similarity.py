"""The similarity of a layer's experts: centred kernel alignment of their outputs.

The outputs are those of all experts on the same tokens.

This is the diagnostic of representation collapse in SimSMoE (arXiv 2406.15883), with three changes:
HSIC is debiased, since the published, biased HSIC is far from 0 for independent outputs; the RBF
kernel's width is the median distance instead of a constant; and two reference values are given,
since the outputs of any experts on the same tokens are similar to some degree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..steering import SteeringError
from .outputs import LayerTokens, check_outputs, random_experts, record_tokens, sample_tokens

Kernel = Literal["linear", "rbf"]
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")
Matrix = NDArray[np.float64]
Matrices = dict[Kernel, Matrix]
"""The CKA of all pairs of E outputs, [E, E], by kernel."""
_Units = dict[Kernel, list[Tensor]]
ALIKE = 0.5
"""SimSMoE's threshold T: experts with a CKA above it are considered too similar."""
FEWEST_ROWS = 4
_FLAT = 1e-12


def cka(x: Tensor, y: Tensor, kernel: Kernel = "linear", *, debiased: bool = True) -> float:
    """Compute the centred kernel alignment, HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)).

    Kornblith et al. 2019 (arXiv 1905.00414). The biased HSIC(X, Y) is the sum of the products of
    the two double-centred Gram matrices; the debiased one is HSIC_1 of Song et al. 2012 (JMLR 13),
    whose expectation is 0 for independent X and Y, computed from U-centred matrices.

    Args:
        x: [n, d], one row per observation; n is 4 or more, better several hundred.
        y: [n, e], the same observations.
        kernel: `linear`, x_i . x_j; or `rbf`, exp(-|x_i - x_j|^2 / (2 s^2)) with s the median
            distance of two rows (the lower of two middle ones), separately for x and y.
        debiased: whether to use the debiased HSIC.

    Returns:
        The CKA; 1 if y is x rotated, shifted and scaled. Biased: 0 to 1; debiased: -1 to 1.

    Raises:
        ValueError: rows differ in number or are too few, or all rows (linear), or most (RBF), are
            the same.
    """
    if len(x) != len(y):
        raise ValueError(f"CKA needs the same observations, not {len(x)} and {len(y)}")
    centre = u_centred if debiased else double_centred
    centred_x, centred_y = (centre(_grams(value)[kernel]) for value in (x, y))
    return float((centred_x * centred_y).sum() / (centred_x.norm() * centred_y.norm()))


def effective_rank(similarity: Matrix) -> float:
    """Compute the effective rank, from 1 (all equal) to E (all orthogonal).

    It is exp(entropy) of the eigenvalues over their sum: Roy and Vetterli 2007, for a CKA matrix
    instead of singular values.

    Args:
        similarity: [E, E], symmetric and positive semi-definite with a positive trace.
    """
    values = np.linalg.eigvalsh(similarity).clip(min=0)
    shares = values[values > 0] / values.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def cka_matrix(outputs: Iterable[Tensor]) -> Matrices:
    """Compute the debiased CKA of all pairs, with a diagonal of 1.

    It needs 2 n (n - 1) bytes of memory per output and kernel, and keeps no output.

    Args:
        outputs: E outputs, each [n, d].

    Raises:
        ValueError: as in `cka`; the message begins with the output's index.
    """
    units: _Units = {kernel: [] for kernel in KERNELS}
    for index, output in enumerate(outputs):
        for kernel, centred in _centred_grams(index, output).items():
            units[kernel].append(_unit(centred))
    return _products(units)


def cka_with_null(
    outputs: Iterable[Tensor], generator: torch.Generator
) -> tuple[Matrices, Matrices]:
    """Compute `cka_matrix`, and the same with the rows of each output in random order.

    Each output gets a different order. The second matrix is the reference for unrelated outputs: 0
    except for chance. It needs twice as much memory.
    """
    units: _Units = {kernel: [] for kernel in KERNELS}
    shuffled: _Units = {kernel: [] for kernel in KERNELS}
    for index, output in enumerate(outputs):
        order = torch.randperm(len(output), generator=generator).to(output.device)
        for kernel, centred in _centred_grams(index, output).items():
            units[kernel].append(_unit(centred))
            shuffled[kernel].append(_unit(centred[order][:, order]))
    return _products(units), _products(shuffled)


def _centred_grams(index: int, output: Tensor) -> dict[Kernel, Tensor]:
    try:
        return {kernel: u_centred(gram) for kernel, gram in _grams(output).items()}
    except ValueError as error:
        raise ValueError(f"{index}: {error}") from error


def _unit(centred: Tensor) -> Tensor:
    """Flatten a U-centred matrix to norm 1: the dot product of two is their debiased CKA."""
    n = len(centred)
    rows, columns = torch.triu_indices(n, n, offset=1, device=centred.device)
    upper = centred[rows, columns]
    unit: Tensor = upper / upper.norm()
    return unit.float()


def _products(units: _Units) -> Matrices:
    matrices: Matrices = {}
    for kernel, rows in units.items():
        stacked = torch.stack(rows)
        rows.clear()
        matrix = (stacked @ stacked.T).double().cpu().numpy()
        np.fill_diagonal(matrix, 1.0)
        matrices[kernel] = (matrix + matrix.T) / 2
    return matrices


def _grams(x: Tensor) -> dict[Kernel, Tensor]:
    """Compute the Gram matrices, [n, n] float64, of the rows minus their mean.

    Subtracting the mean does not change the centred matrix of either kernel.
    """
    if len(x) < FEWEST_ROWS:
        raise ValueError(f"debiased CKA needs {FEWEST_ROWS} rows, not {len(x)}")
    rows = x.detach().double()
    shifted = rows - rows.mean(0)
    if not float(shifted.abs().max()) > _FLAT * float(rows.abs().max()):  # NaN must not pass
        raise ValueError("all rows are the same (or NaN), so CKA is not defined")
    linear = shifted @ shifted.T
    norms = linear.diagonal()
    distances = (norms[:, None] + norms - 2 * linear).clamp(min=0)
    i, j = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    median = distances[i, j].median()
    if not float(median) > _FLAT**2 * float(rows.square().sum(1).max()):
        raise ValueError("most rows are the same, so the RBF kernel's width is not defined")
    return {"linear": linear, "rbf": torch.exp(-distances / (2 * median))}


def double_centred(gram: Tensor) -> Tensor:
    """Compute H K H with H = I - 1/n."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def u_centred(gram: Tensor) -> Tensor:
    """U-centre a Gram matrix (Székely and Rizzo 2014).

    The sum of products of two such matrices, over n (n - 3), is Song's HSIC_1.
    """
    n = len(gram)
    hollow = gram - gram.diagonal().diag()
    sums = hollow.sum(0)
    centred: Tensor = hollow - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    centred.fill_diagonal_(0)
    return centred


class Summary(TypedDict):
    """The figures of one CKA matrix, over the pairs of different experts.

    Attributes:
        mean: mean CKA.
        alike: share of pairs with a CKA above `ALIKE`.
        largest: CKA of the most similar pair.
        pair: the indices of that pair.
        effective_rank: the effective rank, from 1 to the number of experts.
    """

    mean: float
    alike: float
    largest: float
    pair: tuple[int, int]
    effective_rank: float


def summarise(similarity: Matrix) -> Summary:
    """Compute the figures of a CKA matrix, [E, E] with E of 2 or more."""
    rows, columns = np.triu_indices(len(similarity), 1)
    pairs = similarity[rows, columns]
    top = int(pairs.argmax())
    return Summary(
        mean=float(pairs.mean()),
        alike=float((pairs > ALIKE).mean()),
        largest=float(pairs[top]),
        pair=(int(rows[top]), int(columns[top])),
        effective_rank=effective_rank(similarity),
    )


@dataclass(frozen=True, slots=True)
class LayerSimilarity:
    """The CKA matrices of one layer, [experts, experts] by kernel.

    Attributes:
        layer: index of the layer in the model.
        check: relative difference between the sum of single experts and the layer's output (see
            `check_outputs`).
        used: [experts], share of the tokens for which the router selected each expert.
        experts: CKA of the layer's experts.
        shuffled: CKA of the same outputs with each expert's tokens in a different random order:
            the reference for unrelated experts.
        random: CKA of experts with random weights on the same tokens: the similarity that the
            common input alone causes.
    """

    layer: int
    check: float
    used: NDArray[np.float64]
    experts: Matrices
    shuffled: Matrices
    random: Matrices

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by kernel, without the matrices."""
        figures: dict[str, Any] = {
            kernel: {
                name: summarise(matrices[kernel])
                for name, matrices in (
                    ("experts", self.experts),
                    ("shuffled", self.shuffled),
                    ("random", self.random),
                )
            }
            for kernel in KERNELS
        }
        used = self.used.tolist()
        return {"layer": self.layer, "check": self.check, "used": used, **figures}


@dataclass(frozen=True, slots=True)
class ExpertSimilarity:
    """The similarity of the experts of a model, by layer.

    Attributes:
        tokens: number of tokens on which experts were compared.
        texts: number of texts with these tokens.
        seed: seed of the draw of tokens, of their shuffling, and of the random experts.
        layers: the layers that have experts.
    """

    tokens: int
    texts: int
    seed: int
    layers: tuple[LayerSimilarity, ...]

    @property
    def experts(self) -> int:
        """The number of experts per layer."""
        return len(self.layers[0].experts["linear"])

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for `similarity.json`."""
        return {
            "tokens": self.tokens,
            "texts": self.texts,
            "seed": self.seed,
            "experts": self.experts,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def expert_similarity(
    model: Any,
    texts: Sequence[Sequence[int]],
    tokens: int,
    seed: int = 0,
    on_layer: Callable[[int], None] = lambda _layers: None,
) -> ExpertSimilarity:
    """Compare the experts of every layer on the same tokens.

    Every expert is run on all tokens, also on those for which it was not selected.

    Args:
        model: a transformers MoE causal language model, not quantized; its state is restored.
        texts: token ids of texts.
        tokens: number of tokens to draw from them (see `sample_tokens`); at least several hundred.
        seed: seed of all random draws.
        on_layer: called with the number of layers done, for a progress bar.

    Raises:
        SteeringError: an expert of this model cannot be run alone, or has the same output for all
            tokens.
        ValueError: the texts have too few distinct tokens.
    """
    places = sample_tokens(texts, tokens, seed)
    layers = []
    for recorded in record_tokens(model, texts, places):
        layers.append(_layer_similarity(recorded, seed))
        on_layer(1)
    return ExpertSimilarity(
        tokens=len(places),
        texts=len({text for text, _ in places}),
        seed=seed,
        layers=tuple(layers),
    )


def _layer_similarity(tokens: LayerTokens, seed: int) -> LayerSimilarity:
    layer, check = tokens.router.layer, check_outputs(tokens)
    generator = torch.Generator().manual_seed(seed + layer)
    drawn = random_experts(tokens, seed + layer)
    try:
        experts, shuffled = cka_with_null(_outputs(tokens), generator)
        random = cka_matrix(_outputs(tokens, drawn))
    except ValueError as error:
        raise SteeringError(f"layer {layer}, expert {error}") from error
    counts = torch.bincount(tokens.indices.flatten().cpu(), minlength=tokens.router.experts)
    used = counts.double().numpy() / len(tokens.indices)
    return LayerSimilarity(layer, check, used, experts, shuffled, random)


def _outputs(tokens: LayerTokens, experts: Any = None) -> Iterator[Tensor]:
    return (tokens.run(expert, experts=experts) for expert in range(tokens.router.experts))

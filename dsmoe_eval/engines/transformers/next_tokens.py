"""Log-probabilities of queried next tokens; no more than these are copied from the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...tasks.language_model import LogLikelihood

_LOGITS_AT_ONCE = {"cpu": 2**21}
_LOGITS_AT_ONCE_ELSEWHERE = 2**26


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of a batch, on the CPU, ordered by the token before the queried one.

    Attributes:
        places: [n], the tokens before queried ones, each once: row * length of a row + column.
        which: [queries], the index in `places`, ascending.
        targets: [queries], the id of the token whose probability is queried.
        requests: [queries], the index of the request.
    """

    places: Tensor
    which: Tensor
    targets: Tensor
    requests: Tensor

    @classmethod
    def of(cls, at: Tensor, targets: Tensor, requests: Tensor, device: torch.device) -> Queries:
        """Group queries of one token, which share one row of logits.

        Args:
            at: [queries], the token before each queried one: row * length of a row + column.
            targets: [queries], the id of each token.
            requests: [queries], the index of each request.
            device: the device that will answer them.
        """
        places, which = torch.unique(at, return_inverse=True)
        order = which.argsort()
        return cls(
            pinned(places, device),
            pinned(which[order], device),
            pinned(targets[order], device),
            requests[order],
        )


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in memory from which a GPU copies without stopping the program."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities in float32 over the last dimension of logits.

    On a CPU torch's `log_softmax` is off by 5e-6 per token where the vocabulary has 50,000 tokens,
    always in one direction, so that a text's error grows with its length; `logsumexp` is not.
    """
    precise = logits.float()
    return precise - precise.logsumexp(-1, keepdim=True)


def score_queries(
    logits_of: Callable[[slice], Tensor], vocabulary: int, queries: Queries, device: torch.device
) -> Tensor:
    """Compute the log-probability of each target, and whether it is the most likely token.

    Args:
        logits_of: returns the logits after some of the tokens in `queries.places`,
            [tokens, vocabulary].
        vocabulary: the number of logits of a token, which limits how many are computed at once.
        queries: the queries.
        device: the device of the logits.

    Returns:
        [2, queries], float32, on the device of the logits: the log-probability; 1 or 0.
    """
    parts: list[Tensor] = []
    at_once = _LOGITS_AT_ONCE.get(device.type, _LOGITS_AT_ONCE_ELSEWHERE)
    step = max(1, at_once // vocabulary)
    starts = torch.arange(0, len(queries.places) + step, step)
    bounds = torch.searchsorted(queries.which, starts).tolist()
    which = queries.which.to(device, non_blocking=True)
    targets = queries.targets.to(device, non_blocking=True)
    for index, (begin, end) in enumerate(pairwise(bounds)):
        logits = logits_of(slice(index * step, (index + 1) * step)).float()
        row, target = which[begin:end] - index * step, targets[begin:end]
        likely = logits[row, target] - logits.logsumexp(-1)[row]
        parts.append(torch.stack([likely, (logits.argmax(-1)[row] == target).float()]))
    return torch.cat(parts, dim=1)


class Tally:
    """Totals of requests; a batch's values are fetched when the next batch has been started."""

    def __init__(self, requests: int) -> None:
        self._totals = torch.zeros(requests, dtype=torch.float64)
        self._missed = torch.zeros(requests, dtype=torch.float64)
        self._pending: tuple[Tensor, Tensor] | None = None

    def add(self, queries: Queries, judged: Tensor) -> int:
        """Add the result of `score_queries`, and return the number of requests it is of."""
        self._fetch()
        self._pending = queries.requests, judged
        return len(set(queries.requests.tolist()))

    def done(self) -> list[LogLikelihood]:
        """Return (log-likelihood, is greedy) of each request, after the last batch."""
        self._fetch()
        return list(zip(self._totals.tolist(), (self._missed == 0).tolist(), strict=True))

    def _fetch(self) -> None:
        if self._pending is not None:
            requests, judged = self._pending
            likely, hit = judged.cpu().double()
            self._totals.index_add_(0, requests, likely)
            self._missed.index_add_(0, requests, 1 - hit)
            self._pending = None

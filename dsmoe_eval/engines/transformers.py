"""The transformers engine, shown to lm-eval as an LM.

One loaded model serves every variant: whoever steers it or puts adapters on it does so around the
calls. What texts share is computed once where the model allows it (`prefixes`, `packed`); where it
does not, each text is computed whole, and one forward serves all single-token options of a
question. The first use of each way of sharing is compared with texts computed whole.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .generation import Answer, Request, generate, positions
from .lm import EngineLM, Tokens
from .loading import LoadedModel
from .memory import in_halves
from .packed import Scores, make_cache, refusal, score_rows
from .prefixes import plan_groups

CPU_TOKENS = 2048
"""In a forward on a CPU: 512 and 1,024 were measured slower, 4,096 and 8,192 no faster."""
_COMPARED = 4
_ABSOLUTE, _RELATIVE = 1e-4, 1e-6
_ROUNDINGS, _SPREADS = 8, 4

Pair = tuple[Tokens, Tokens]
Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")


class _DisagreesError(Exception):
    """Why sharing is not trusted on this model."""


_UNSHARED = (_DisagreesError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class _Forward:
    """One sequence to run, and the continuations that end at its last logits."""

    tokens: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]  # (request, continuation tokens)
    kept: int  # logits needed, counted from the end

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and its place among those of a call."""

    place: int
    request: Request

    def __len__(self) -> int:
        return len(self.request.prompt)

    def order(self) -> tuple[int, Tokens]:
        """The longest first."""
        return -len(self), self.request.prompt


class TransformersLM(EngineLM):
    """lm-eval's LM over a loaded model.

    Attributes:
        batch_tokens: most tokens in a forward, padding included, unless one text alone is longer.
        shares: whether beginnings that texts share are computed once.
    """

    def __init__(self, loaded: LoadedModel, batch_tokens: int) -> None:
        super().__init__(loaded.tokenizer, loaded.identity)
        self.loaded = loaded
        self.batch_tokens = batch_tokens
        self.max_length = positions(loaded)
        self.shares = refusal(loaded.model) is None
        on_cpu = loaded.model.device.type == "cpu"
        self._room = min(batch_tokens, CPU_TOKENS) if on_cpu else batch_tokens
        self._trusted: set[tuple[bool, bool]] = set()

    @torch.no_grad()
    def _score(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        self._check_fits((len(a) + len(b) - 1 for a, b in pairs), 0)
        if self.shares:
            try:
                return self._score_shared(pairs)
            except _UNSHARED as reason:
                self.shares = False
                warnings.warn(
                    f"model {self._identity.name!r}: what texts share cannot be computed once "
                    f"({reason or type(reason).__name__}); each text is computed whole from here "
                    "on, which is slower",
                    stacklevel=3,
                )
        return self._score_whole(pairs)

    def _score_shared(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        model = self.loaded.model
        totals = torch.zeros(len(pairs), dtype=torch.float64)
        greedy = torch.zeros(len(pairs), dtype=torch.bool)
        for group in plan_groups(pairs, self._room):
            ((_, cache),) = self._halving([group.header], lambda one: make_cache(model, one[0]))
            work = functools.partial(score_rows, model, cache=cache)
            for batch in self._batches(group.rows):
                for rows, scores in self._halving(batch, work):
                    kind = (cache is not None, any(not row.is_chain for row in rows))
                    if kind not in self._trusted:
                        self._compare(pairs, scores)
                        self._trusted.add(kind)
                    totals[scores.requests] = scores.totals
                    greedy[scores.requests] = scores.greedy
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    def _compare(self, pairs: Sequence[Pair], scores: Scores) -> None:
        """Compare a few requests, spread over a batch, with whole texts.

        In float32 they agree to 1e-4, or to a millionth. In 16 bits there is no such agreement
        between any two batches: a few roundings for each token are let pass, or a few times by what
        whole texts differ when they are run one by one instead of together.

        Raises:
            _DisagreesError: with the difference.
        """
        step = max(1, len(scores.requests) // _COMPARED)
        totals, requests = scores.totals[::step], scores.requests[::step]
        sample = [pairs[request] for request in requests.tolist()]
        whole = torch.tensor([value for value, _ in self._score_whole(sample)])
        rounding = torch.finfo(self.loaded.model.dtype).eps
        if rounding < _ABSOLUTE:
            allowed = (_RELATIVE * whole.abs()).clamp(min=_ABSOLUTE)
        else:
            alone = torch.tensor([self._score_whole([pair])[0][0] for pair in sample])
            lengths = torch.tensor([float(len(continuation)) for _, continuation in sample])
            spread = float((whole - alone).abs().max())
            allowed = (_ROUNDINGS * rounding * lengths).clamp(min=_SPREADS * spread)
        difference = (totals - whole).abs()
        if not bool((difference <= allowed).all()):
            raise _DisagreesError(
                f"log-likelihoods are then off by up to {float(difference.max()):.3g}"
            )

    def _score_whole(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        totals = torch.zeros(len(pairs))
        greedy = torch.ones(len(pairs), dtype=torch.bool)
        forwards = sorted(_plan_forwards(pairs), key=_longest)
        for whole in self._batches(forwards):
            for batch, logits in self._halving(whole, self._last_logits):
                request, row, position, token = _wanted(batch, logits.shape[1])
                totals.index_add_(0, request, logits[row, position, token])
                missed = request[logits.argmax(-1)[row, position] != token]
                greedy[missed] = False
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    @torch.no_grad()
    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        for request in requests:
            self._check_fits([len(request.prompt)], request.limit)
        ordered = sorted(map(_Asked, range(len(requests)), requests), key=_Asked.order)
        # One token a text and step: many texts at once, whatever suits long forwards.
        for whole in self._batches(ordered, self.batch_tokens):
            for batch, answers in self._halving(whole, self._generate):
                places = (asked.place for asked in batch)
                yield list(zip(places, answers, strict=True))

    def _batches(
        self, ordered: Sequence[Item], room: int | None = None
    ) -> Iterator[Sequence[Item]]:
        """Of items ordered by length, the longest first, so that memory is tried at once."""
        start = 0
        while start < len(ordered):
            count = max(1, (room or self._room) // len(ordered[start]))
            yield ordered[start : start + count]
            start += count

    def _halving(
        self, batch: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Work on a batch; what there was no memory for is not tried again in later batches."""
        largest = 0
        for part, result in in_halves(batch, work, len):
            largest = max(largest, len(part))
            self.forward_tokens += sum(map(len, part))
            yield part, result
        if largest < len(batch):
            self.batch_tokens = min(self.batch_tokens, largest * len(batch[0]))
            self._room = min(self._room, largest * len(batch[0]))

    def _pad_left(self, batch: Sequence[_Forward]) -> tuple[Tensor, Tensor]:
        length = len(batch[0])
        rows = [[0] * (length - len(f)) + list(f.tokens) for f in batch]
        masks = [[0] * (length - len(f)) + [1] * len(f) for f in batch]
        device = self.loaded.model.device
        return torch.tensor(rows, device=device), torch.tensor(masks, device=device)

    def _last_logits(self, batch: Sequence[_Forward]) -> Tensor:
        ids, mask = self._pad_left(batch)
        output = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(forward.kept for forward in batch),
        )
        logits: Tensor = output.logits
        return logits.float().log_softmax(-1).cpu()

    def _generate(self, batch: Sequence[_Asked]) -> list[Answer]:
        return generate(self.loaded, [asked.request for asked in batch])


def _longest(forward: _Forward) -> tuple[int, tuple[int, ...]]:
    return -len(forward), forward.tokens


def _plan_forwards(pairs: Sequence[Pair]) -> Iterator[_Forward]:
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        groups[(*context, *continuation[:-1])].append((index, tuple(continuation)))
    for tokens, continuations in groups.items():
        kept = max(len(continuation) for _, continuation in continuations)
        yield _Forward(tokens, tuple(continuations), kept)


def _wanted(batch: Sequence[_Forward], kept: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the continuations' tokens stand in a batch's last `kept` log-probabilities.

    Returns:
        Four vectors of one length: the request, its row, the position, and the token wanted there.
    """
    places = [
        (request, row, kept - len(continuation) + offset, token)
        for row, forward in enumerate(batch)
        for request, continuation in forward.continuations
        for offset, token in enumerate(continuation)
    ]
    request, row, position, token = torch.tensor(places, dtype=torch.long).unbind(1)
    return request, row, position, token

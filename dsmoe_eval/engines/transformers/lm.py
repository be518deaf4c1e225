"""The transformers engine as an LM of lm-eval.

One loaded model serves every variant: the caller steers it or adds adapters around the calls. If
the model allows it, shared beginnings of texts are computed once (`prefix_tree`,
`shared_prefix_forward`); otherwise each text is computed whole, and one forward pass serves all
single-token options of a question. The results of the first use of each way of sharing are compared
with those of texts computed whole.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ...errors import EvalWarning
from ...models.loading import LoadedModel
from ...models.prompt_format import PLAIN, PromptFormat
from ...tasks.language_model import Advance, LogLikelihood, unwatched
from ..lm import Arranged, EngineLM, Pair, Tokens
from ..requests import Answer, Request
from ..sharing import checked, largest_difference
from .answers import AnswerBatches, Asked
from .generate import gaps, generate, positions
from .memory import in_halves
from .prefix_tree import Group, plan_groups, plan_headers
from .shared_prefix_forward import Scores, grown_from, make_cache, refusal, score_rows
from .whole_forward import (
    Forward,
    log_probabilities,
    longest_first,
    plan_forwards,
    wanted_places,
)

CPU_TOKENS = 2048
"""Limit of tokens per forward pass on a CPU.

512 and 1,024 were measured slower, 4,096 and 8,192 no faster.
"""
_COMPARED = 4
_ABSOLUTE, _RELATIVE = 1e-4, 1e-6
_ROUNDINGS, _SPREADS = 8, 4

Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")


class _DisagreesError(Exception):
    """An error: results with shared beginnings differ from those of whole texts."""


_UNSHARED = (_DisagreesError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, eq=False)
class _Planned(Arranged):
    """Pairs, and the groups in which their shared beginnings are computed once.

    Attributes:
        room: limit of tokens per row of a group.
    """

    room: int

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The groups, planned at first use: never for a model that cannot share beginnings."""
        return plan_groups(self.pairs, self.room)


class TransformersLM(EngineLM):
    """The LM of lm-eval for a loaded model.

    Attributes:
        batch_tokens: limit of tokens per forward pass, including padding; a single text may be
            longer.
        shares: whether shared beginnings of texts are computed once.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batch_tokens: int,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(loaded.tokenizer, loaded.identity, prompt_format, seed, defaults)
        self.loaded = loaded
        self.batch_tokens = batch_tokens
        self.max_length = positions(loaded)
        self.shares = refusal(loaded.model) is None
        on_cpu = loaded.model.device.type == "cpu"
        self._room = min(batch_tokens, CPU_TOKENS) if on_cpu else batch_tokens
        self._trusted: set[tuple[bool, bool]] = set()
        self._continues: bool | None = None
        self._answers = AnswerBatches(loaded.model)

    def _arrange(self, pairs: Sequence[Pair]) -> Arranged:
        self._check_fits((len(a) + len(b) - 1 for a, b in pairs), 0)
        return _Planned(pairs, self._room)

    @torch.no_grad()
    def _score(self, arranged: Arranged, advance: Advance = unwatched) -> list[LogLikelihood]:
        pairs = arranged.pairs
        if self.shares and isinstance(arranged, _Planned):
            try:
                return self._score_shared(pairs, arranged.groups, advance)
            except _UNSHARED as reason:
                self.shares = False
                if not isinstance(reason, _DisagreesError):
                    self.sharing += (checked("log-likelihoods", False),)
                warnings.warn(
                    f"model {self._identity.name!r}: what texts share cannot be computed once "
                    f"({reason or type(reason).__name__}); each text is computed whole from here "
                    "on, which is slower",
                    EvalWarning,
                    stacklevel=3,
                )
        return self._score_whole(pairs, advance)

    def _score_shared(
        self, pairs: Sequence[Pair], groups: Sequence[Group], advance: Advance
    ) -> list[LogLikelihood]:
        model = self.loaded.model
        totals = torch.zeros(len(pairs), dtype=torch.float64)
        greedy = torch.zeros(len(pairs), dtype=torch.bool)
        for group in groups:
            ((_, cache),) = self._halving([group.header], lambda one: make_cache(model, one[0]))
            work = functools.partial(score_rows, model, cache=cache)
            for batch in self._batches(group.rows):
                for rows, scores in self._halving(batch, work):
                    kind = (cache is not None, any(not row.is_chain for row in rows))
                    if kind not in self._trusted:
                        self._compare(pairs, scores)
                        self._trusted.add(kind)
                    advance(len(scores.requests))
                    totals[scores.requests] = scores.totals
                    greedy[scores.requests] = scores.greedy
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    def _compare(self, pairs: Sequence[Pair], scores: Scores) -> None:
        """Compare log-likelihoods of a few requests, spread over a batch, with whole texts.

        In float32 the permitted difference is 1e-4, or a millionth of the value if that is more. In
        16 bits no two batches agree so well: a few roundings per token are permitted, or, if that
        is more, a few times the difference between whole texts run one by one and together.

        Raises:
            _DisagreesError: a difference is larger; the message has the largest difference.
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
        agrees, worst = bool((difference <= allowed).all()), int((difference - allowed).argmax())
        tolerance = float(allowed.expand_as(difference)[worst])
        outcome = checked("log-likelihoods", agrees, float(difference[worst]), tolerance)
        self.sharing += (outcome,)
        if not agrees:
            raise _DisagreesError(
                f"log-likelihoods are then off by up to {float(difference.max()):.3g}"
            )

    def _score_whole(
        self, pairs: Sequence[Pair], advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        totals = torch.zeros(len(pairs))
        greedy = torch.ones(len(pairs), dtype=torch.bool)
        forwards = sorted(plan_forwards(pairs), key=longest_first)
        for whole in self._batches(forwards):
            for batch, logits in self._halving(whole, self._last_logits):
                advance(sum(len(forward.continuations) for forward in batch))
                request, row, position, token = wanted_places(batch, logits.shape[1])
                totals.index_add_(0, request, logits[row, position, token])
                missed = request[logits.argmax(-1)[row, position] != token]
                greedy[missed] = False
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    @torch.no_grad()
    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        for request in requests:
            self._check_fits([len(request.prompt)], request.limit)
        for header, places in self._groups([request.prompt for request in requests]):
            asked = sorted((Asked(p, requests[p], header) for p in places), key=Asked.order)
            if header and not self._continues_alike(asked):
                asked, header = [replace(one, header=0) for one in asked], 0
            yield from self._answer_group(asked, header)

    def _groups(self, prompts: Sequence[Tokens]) -> Iterator[tuple[int, list[int]]]:
        """Yield groups of prompts with one header, then all other prompts.

        Prompts get a header only if that saves a forward pass.

        Yields:
            The length of the header, 0 for the other prompts, and the indices of the prompts.
        """
        rest: list[int] = []
        for header, places in plan_headers(prompts) if self.shares else ():
            if header * len(places) >= self.batch_tokens:
                yield header, places
            else:
                rest += places
        if rest or not self.shares:
            yield 0, rest or list(range(len(prompts)))

    def _answer_group(
        self, asked: Sequence[Asked], header: int
    ) -> Iterator[list[tuple[int, Answer]]]:
        cache = self._header_cache(asked[0], header)
        work = functools.partial(self._generate, cache=cache)
        for batch, answers in self._answers.run(asked, self.batch_tokens, work):
            self.forward_tokens += sum(map(len, batch))
            yield [(one.place, answer) for one, answer in zip(batch, answers, strict=True)]

    def _header_cache(self, one: Asked, header: int) -> DynamicCache | None:
        self.forward_tokens += header
        return make_cache(self.loaded.model, np.array(one.request.prompt[:header], dtype=np.int64))

    def _generate(self, batch: Sequence[Asked], cache: DynamicCache | None) -> list[Answer]:
        requests = [one.request for one in batch]
        if cache is None:
            room = self.batch_tokens if self._answers.splits else None
            return generate(self.loaded, requests, room=room)
        return generate(self.loaded, requests, grown_from(self.loaded.model, cache, gaps(requests)))

    def _continues_alike(self, asked: Sequence[Asked]) -> bool:
        """Return whether a header leaves the log-probabilities of a few greedy tokens unchanged.

        They are compared at the first call only, for the longest and the shortest prompt in one
        batch, so that there are pads.
        """
        if self._continues is None:
            few = [asked[0], asked[-1]]
            few = [replace(one, request=one.request.greedy(_COMPARED)) for one in few]
            whole = self._generate(few, None)
            difference = tolerance = math.nan
            try:
                cache = self._header_cache(asked[0], asked[0].header)
                difference = max(map(largest_difference, self._generate(few, cache), whole))
                rounding = float(torch.finfo(self.loaded.model.dtype).eps)
                tolerance = max(_ABSOLUTE, _ROUNDINGS * rounding)
                self._continues = difference <= tolerance
            except _UNSHARED:
                self._continues = False
            self.sharing += (checked("answers", self._continues, difference, tolerance),)
            if not self._continues:
                warnings.warn(
                    f"model {self._identity.name!r}: answers are not the same where the beginning "
                    "of their prompts is computed once; each prompt is computed whole from here "
                    "on, which is slower",
                    EvalWarning,
                    stacklevel=4,
                )
        return self._continues

    def _batches(self, ordered: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Yield batches of items, which must be ordered by length, the longest first.

        So a lack of memory shows in the first batch.
        """
        start = 0
        while start < len(ordered):
            count = max(1, self._room // len(ordered[start]))
            yield ordered[start : start + count]
            start += count

    def _halving(
        self, batch: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Run a batch, in halves if memory is short, and lower the limits of later batches.

        So a size that did not fit into memory is not tried again.
        """
        largest = 0
        for part, result in in_halves(batch, work, len):
            largest = max(largest, len(part))
            self.forward_tokens += sum(map(len, part))
            yield part, result
        if largest < len(batch):
            self.batch_tokens = min(self.batch_tokens, largest * len(batch[0]))
            self._room = min(self._room, largest * len(batch[0]))

    def _pad_left(self, batch: Sequence[Forward]) -> tuple[Tensor, Tensor]:
        length = len(batch[0])
        rows = [[0] * (length - len(f)) + list(f.tokens) for f in batch]
        masks = [[0] * (length - len(f)) + [1] * len(f) for f in batch]
        device = self.loaded.model.device
        return torch.tensor(rows, device=device), torch.tensor(masks, device=device)

    def _last_logits(self, batch: Sequence[Forward]) -> Tensor:
        ids, mask = self._pad_left(batch)
        output = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(forward.kept for forward in batch),
        )
        return log_probabilities(output.logits).cpu()

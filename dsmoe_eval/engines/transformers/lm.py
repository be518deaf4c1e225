"""The transformers engine as an LM of lm-eval.

One loaded model serves every variant: the caller steers it or adds adapters around the calls. If
the model allows it, shared beginnings of texts are computed once (`prefix_tree`,
`shared_prefix_forward`); otherwise each text is computed whole, and one forward pass serves all
single-token options of a question. At the first use it is tested that sharing is right (`trust`).
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
from . import trust
from .answers import AnswerBatches, Asked
from .generate import gaps, generate, positions
from .memory import ahead, in_halves
from .next_tokens import Queries, Tally
from .prefix_tree import Group, PackedRow, plan_groups, plan_headers
from .shared_prefix_forward import (
    PreparedRows,
    grown_from,
    make_cache,
    prepare_rows,
    refusal,
    score_rows,
)
from .whole_forward import (
    PreparedForwards,
    longest_first,
    plan_forwards,
    prepare_forwards,
    score_forwards,
)

CPU_TOKENS = 2048
"""Limit of tokens per forward pass on a CPU.

512 and 1,024 were measured slower, 4,096 and 8,192 no faster.
"""
_COMPARED, _SAMPLED = 4, 64

Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")
Ready = TypeVar("Ready", PreparedForwards, PreparedRows)


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
        self._asked = False
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
                self._earn_trust(pairs)
                return self._score_shared(arranged.groups, len(pairs), advance)
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

    def _earn_trust(self, pairs: Sequence[Pair]) -> None:
        """Test once that sharing is right: on a small model in float32, then on this one.

        Raises:
            _DisagreesError: it is not; the message has the largest difference.
        """
        if self._asked:
            return
        self._asked = True
        proof = trust.prove(self.loaded.model, self._identity.name)
        if not proof.unknown:
            self._record(trust.SMALL, proof.outcome)
        outcome = trust.compare_ways(
            np.array(sorted({token for a, b in pairs[:_SAMPLED] for token in (*a, *b)})),
            lambda few, most: self._score_shared(plan_groups(few, most), len(few)),
            self._score_whole,
            torch.finfo(self.loaded.model.dtype).eps,
            trust.WAYS if proof.unknown else trust.WAYS[1:2],
        )
        self._record("log-likelihoods", outcome)

    def _record(self, what: str, outcome: trust.SharingOutcome) -> None:
        check = checked(what, outcome.agrees, outcome.difference, outcome.tolerance)
        self.sharing += (check,)
        if not outcome.agrees:
            raise _DisagreesError(f"{what} are then off by up to {outcome.difference:.3g}")

    def _score_shared(
        self, groups: Sequence[Group], requests: int, advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        model, tally = self.loaded.model, Tally(requests)
        batches = ((group, batch) for group in groups for batch in self._batches(group.rows))

        def prepare(group: Group, rows: Sequence[PackedRow]) -> PreparedRows:
            return prepare_rows(rows, len(group.header), model.device)

        header: Group | None = None
        cache: DynamicCache | None = None
        for (group, batch), ready in ahead(batches, lambda one: prepare(*one)):
            if group is not header:
                ((_, cache),) = self._halving([group.header], lambda one: make_cache(model, one[0]))
                header = group
            score = functools.partial(score_rows, model, cache=cache)
            part = functools.partial(prepare, group)
            self._add(tally, batch, ready, part, score, advance)
        return tally.done()

    def _score_whole(
        self, pairs: Sequence[Pair], advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        model, tally = self.loaded.model, Tally(len(pairs))
        forwards = sorted(plan_forwards(pairs), key=longest_first)
        prepare = functools.partial(prepare_forwards, device=model.device)
        score = functools.partial(score_forwards, model)
        for batch, ready in ahead(self._batches(forwards), prepare):
            self._add(tally, batch, ready, prepare, score, advance)
        return tally.done()

    def _add(
        self,
        tally: Tally,
        batch: Sequence[Item],
        ready: Ready,
        prepare: Callable[[Sequence[Item]], Ready],
        score: Callable[[Ready], Tensor],
        advance: Advance,
    ) -> None:
        """Score a batch that is prepared, or its parts if memory is short."""

        def work(part: Sequence[Item]) -> tuple[Queries, Tensor]:
            prepared = ready if len(part) == len(batch) else prepare(part)
            return prepared.queries, score(prepared)

        for _, (queries, judged) in self._halving(batch, work):
            advance(tally.add(queries, judged))

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
                tolerance = max(trust.ABSOLUTE, trust.ROUNDINGS * rounding)
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

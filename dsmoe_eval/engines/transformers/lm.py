"""The transformers engine, shown to lm-eval as an LM.

One loaded model serves every variant: whoever steers it or puts adapters on it does so around the
calls. What texts share is computed once where the model allows it (`prefixes`, `packed`); where it
does not, each text is computed whole, and one forward serves all single-token options of a
question. The first use of each way of sharing is compared with texts computed whole.
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
from .generate import gaps, generate, positions
from .memory import in_halves
from .prefix_tree import Group, plan_groups, plan_headers
from .shared_prefix_forward import Scores, grown_from, make_cache, refusal, score_rows
from .whole_forward import Forward, longest_first, plan_forwards, wanted_places

CPU_TOKENS = 2048
"""In a forward on a CPU: 512 and 1,024 were measured slower, 4,096 and 8,192 no faster."""
_REMEMBERED = 16
"""Times `batch_tokens`: keys and values of a batch that is generated."""
_COMPARED = 4
_ABSOLUTE, _RELATIVE = 1e-4, 1e-6
_ROUNDINGS, _SPREADS = 8, 4

Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")


class _DisagreesError(Exception):
    """Why sharing is not trusted on this model."""


_UNSHARED = (_DisagreesError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, its place among those of a call, and how much of its prompt is a header."""

    place: int
    request: Request
    header: int

    def __len__(self) -> int:
        return len(self.request.prompt) - self.header

    def remembers(self) -> int:
        """Tokens in the cache at the end, at most."""
        return len(self.request.prompt) + self.request.limit

    def order(self) -> tuple[int, Tokens]:
        """The longest first."""
        return -len(self), self.request.prompt


@dataclass(frozen=True, eq=False)
class _Planned(Arranged):
    """Pairs with the groups in which what they share is computed once.

    Attributes:
        room: most tokens in a row of theirs.
    """

    room: int

    @functools.cached_property
    def groups(self) -> list[Group]:
        """Planned at first use, which a model that cannot share never comes to."""
        return plan_groups(self.pairs, self.room)


class TransformersLM(EngineLM):
    """lm-eval's LM over a loaded model.

    Attributes:
        batch_tokens: most tokens in a forward, padding included, unless one text alone is longer.
        shares: whether beginnings that texts share are computed once.
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
            asked = sorted((_Asked(p, requests[p], header) for p in places), key=_Asked.order)
            if header and not self._continues_alike(asked):
                asked, header = [replace(one, header=0) for one in asked], 0
            yield from self._answer_group(asked, header)

    def _groups(self, prompts: Sequence[Tokens]) -> Iterator[tuple[int, list[int]]]:
        """Prompts with a header of their own where that saves a forward, and then all others."""
        rest: list[int] = []
        for header, places in plan_headers(prompts) if self.shares else ():
            if header * len(places) >= self.batch_tokens:
                yield header, places
            else:
                rest += places
        if rest or not self.shares:
            yield 0, rest or list(range(len(prompts)))

    def _answer_group(
        self, asked: Sequence[_Asked], header: int
    ) -> Iterator[list[tuple[int, Answer]]]:
        cache = self._header_cache(asked[0], header)
        work = functools.partial(self._generate, cache=cache)
        for whole in self._batches(asked, self.batch_tokens):
            # Behind a header many fit into a forward, more than there is memory to remember.
            most = max(1, _REMEMBERED * self.batch_tokens // max(map(_Asked.remembers, whole)))
            for start in range(0, len(whole), most):
                for batch, answers in self._halving(whole[start : start + most], work):
                    places = (one.place for one in batch)
                    yield list(zip(places, answers, strict=True))

    def _header_cache(self, one: _Asked, header: int) -> DynamicCache | None:
        self.forward_tokens += header
        return make_cache(self.loaded.model, np.array(one.request.prompt[:header], dtype=np.int64))

    def _generate(self, batch: Sequence[_Asked], cache: DynamicCache | None) -> list[Answer]:
        requests = [one.request for one in batch]
        if cache is None:
            return generate(self.loaded, requests)
        return generate(self.loaded, requests, grown_from(self.loaded.model, cache, gaps(requests)))

    def _continues_alike(self, asked: Sequence[_Asked]) -> bool:
        """Whether a few greedy tokens come with the same log-probabilities behind a header.

        Asked once; the longest prompt and the shortest, in one batch, so that there are pads.
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
        logits: Tensor = output.logits
        return logits.float().log_softmax(-1).cpu()

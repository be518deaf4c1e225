"""The vLLM engine as an LM of lm-eval, with the same results as `TransformersLM`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...errors import UserError
from ...experts.tokenizer import Tokenizer
from ...models.prompt_format import PLAIN, PromptFormat
from ...tasks.decoding import Decoding
from ...tasks.language_model import Advance, GenerationSettings, LogLikelihood, unwatched
from ..lm import Arranged, EngineLM, Pair
from ..requests import Answer, Request
from .scoring import ScoreRequest, plan_scoring
from .steered_vllm import SteeredVllm

_SHAPING = ("repetition_penalty",)
_COLDEST, _HOTTEST = 0.01, 2.0
"""Limits of the temperature: vLLM raises lower values to the first and refuses higher ones."""
REQUESTS_AT_ONCE = 1024
"""Requests per call of vLLM, which batches them; a killed run answers at most these again."""


@dataclass(frozen=True, slots=True)
class CallerBatch:
    """Requests of one caller.

    Attributes:
        scored: requests for log-likelihoods.
        answered: requests for answers.
        profile: the id of the loaded profile that all of them name; None: they name none.
    """

    scored: Sequence[ScoreRequest] = ()
    answered: Sequence[Request] = ()
    profile: str | None = None

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of the prompts."""
        scored = sum(len(request.prompt) for request in self.scored)
        return scored + sum(len(request.prompt) for request in self.answered)


@dataclass(frozen=True, slots=True)
class BatchReplies:
    """The replies to a batch, in the order of its requests.

    Attributes:
        scored: the results of `ScoreRequest.read`.
        answered: the answers.
        computed: number of tokens that vLLM computed for them, without generated tokens; of a call
            for several batches the share by `CallerBatch.prompt_tokens`.
    """

    scored: Sequence[list[LogLikelihood]]
    answered: Sequence[Answer]
    computed: int


@dataclass(frozen=True, eq=False)
class Planned(Arranged):
    """Pairs with the requests that score them."""

    requests: Sequence[ScoreRequest]


class VllmLM(EngineLM):
    """The LM of lm-eval for a running engine, which is steered around the calls."""

    def __init__(
        self,
        engine: SteeredVllm,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(tokenizer, engine.identity, prompt_format, seed, defaults)
        self.engine = engine
        self._profile: str | None = None
        self._most = REQUESTS_AT_ONCE
        self._ask: Callable[[CallerBatch], BatchReplies] = lambda batch: self.reply([batch])[0]
        # vLLM generates a token after each scored text, and a text includes its last token.
        self.max_length = engine.max_length - 2

    def decoding(self, settings: GenerationSettings) -> Decoding:
        """Read a task's generation settings, all of which vLLM must implement.

        Raises:
            UserError: vLLM does not implement one of them, or would silently change its value.
        """
        found = super().decoding(settings)
        unknown = [name for name, _ in found.shaping if name not in _SHAPING]
        drawn_at = found.drawn_at
        if drawn_at is not None and not _COLDEST <= drawn_at <= _HOTTEST:
            unknown.append(f"temperature {drawn_at:g} (of {_COLDEST:g} to {_HOTTEST:g})")
        if unknown:
            raise UserError(
                f"vLLM does not implement {', '.join(unknown)}; take engine: transformers"
            )
        return found

    def _arrange(self, pairs: Sequence[Pair]) -> Planned:
        self._check_fits((len(a) + len(b) - 1 for a, b in pairs), 0)
        fixed = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        return Planned(fixed, plan_scoring(fixed, self.engine.block))

    def _score(self, arranged: Arranged, advance: Advance = unwatched) -> list[LogLikelihood]:
        planned = arranged if isinstance(arranged, Planned) else self._arrange(arranged.pairs)
        times = Counter(planned.pairs)
        scores: dict[Pair, LogLikelihood] = {}
        self.engine.forget()
        for start in range(0, len(planned.requests), self._most):
            some = planned.requests[start : start + self._most]
            replies = self._ask(CallerBatch(scored=some, profile=self._profile))
            self.forward_tokens += replies.computed
            for request, found in zip(some, replies.scored, strict=True):
                scores |= zip(request.pairs, found, strict=True)
            advance(sum(times[pair] for request in some for pair in request.pairs))
        return [scores[pair] for pair in planned.pairs]

    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        for request in requests:
            self._check_fits([len(request.prompt)], request.limit)
        for start in range(0, len(requests), self._most):
            some = requests[start : start + self._most]
            replies = self._ask(CallerBatch(answered=some, profile=self._profile))
            self.forward_tokens += replies.computed
            yield list(enumerate(replies.answered, start))

    def joining(
        self, profile: str, ask: Callable[[CallerBatch], BatchReplies], callers: int
    ) -> VllmLM:
        """Return this LM for one of several callers, whose batches are answered together.

        Args:
            profile: the id of a loaded profile, which the requests name.
            ask: has a batch answered, by `reply` in the end.
            callers: number of callers.
        """
        joined = copy.copy(self)
        joined.forward_tokens = 0
        joined._profile, joined._ask = profile, ask
        joined._most = max(1, REQUESTS_AT_ONCE // callers)
        return joined

    def reply(self, batches: Sequence[CallerBatch]) -> list[BatchReplies]:
        """Answer batches in one call of vLLM for each kind of requests."""
        engine, before = self.engine, self.engine.computed()
        scored = [request for batch in batches for request in batch.scored]
        named = [batch.profile for batch in batches for _ in batch.scored]
        scores = iter(engine.score(scored, named) if scored else ())
        asked = [request for batch in batches for request in batch.answered]
        named = [batch.profile for batch in batches for _ in batch.answered]
        answers = engine.answer(asked, [self.eot_token_id], named) if asked else []
        # Of an answer all tokens but the last are computed too; they are not counted.
        generated = sum(len(answer.tokens) - 1 for answer in answers)
        computed = engine.computed() - before - generated
        left = iter(answers)
        return [
            BatchReplies(
                [next(scores) for _ in batch.scored], [next(left) for _ in batch.answered], share
            )
            for batch, share in zip(batches, _shares(batches, computed), strict=True)
        ]


def _shares(batches: Sequence[CallerBatch], computed: int) -> list[int]:
    """Return the shares of batches in a number of tokens, by their prompts; they sum to it."""
    ends, prompts = [0], 0
    total = sum(batch.prompt_tokens for batch in batches)
    for batch in batches:
        prompts += batch.prompt_tokens
        ends.append(computed * prompts // max(1, total))
    return [end - start for start, end in pairwise(ends)]

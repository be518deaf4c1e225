"""The vLLM engine as an LM of lm-eval, with the same results as `TransformersLM`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
        before = self.engine.computed()
        self.engine.forget()
        for start in range(0, len(planned.requests), REQUESTS_AT_ONCE):
            some = planned.requests[start : start + REQUESTS_AT_ONCE]
            for request, found in zip(some, self.engine.score(some), strict=True):
                scores |= zip(request.pairs, found, strict=True)
            advance(sum(times[pair] for request in some for pair in request.pairs))
        self.forward_tokens += self.engine.computed() - before
        return [scores[pair] for pair in planned.pairs]

    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        for request in requests:
            self._check_fits([len(request.prompt)], request.limit)
        for start in range(0, len(requests), REQUESTS_AT_ONCE):
            some = requests[start : start + REQUESTS_AT_ONCE]
            before = self.engine.computed()
            answers = self.engine.answer(some, [self.eot_token_id])
            # Of an answer all tokens but the last are computed too; they are not counted.
            generated = sum(len(answer.tokens) - 1 for answer in answers)
            self.forward_tokens += self.engine.computed() - before - generated
            yield list(enumerate(answers, start))

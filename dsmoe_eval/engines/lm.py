"""The base class of the engines' LMs, which translates lm-eval's texts to tokens and back."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lm_eval.api.model import TemplateLM

from ..errors import QuotingError, UserError
from ..experts.tokenizer import Tokenizer
from ..models.prompt_format import PLAIN, PromptFormat
from ..progress import counted_as
from ..steering import ModelIdentity
from ..tasks.decoding import Decoding, read_decoding
from ..tasks.language_model import (
    Advance,
    Completion,
    GenerationSettings,
    LogLikelihood,
    Message,
    TaskRequest,
    unwatched,
)
from .encoding import Encoder
from .reading import read_answer
from .requests import Answer, Request, Sampling
from .response_log import ResponseLog, request_key
from .rolling import RollingTexts, known_length
from .sharing import SharingCheck

Tokens = Sequence[int]
Pair = tuple[Tokens, Tokens]
_ARRANGED = 64
"""Number of sets of texts whose tokens and arrangement are remembered: arms share the sets."""


@dataclass(frozen=True, eq=False)
class Arranged:
    """Nonempty (context, continuation) pairs, arranged for an engine to score them.

    An engine that plans how to score them stores its plan here, so that it plans only once.
    """

    pairs: Sequence[Pair]


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """An LM of lm-eval; each engine implements the scoring and completion of token ids.

    Args:
        tokenizer: the model's tokenizer.
        identity: the model's identity.
        prompt_format: the format of prompts, and where answers begin.
        seed: the random seed for tasks that request sampling.
        defaults: generation settings that apply if a task does not set them.

    Attributes:
        forward_tokens: number of tokens computed so far, without generated tokens and padding.
        max_length: limit of tokens per text and its answer; None if it is not known.
        sharing: comparisons so far between texts with shared beginnings and whole texts.
    """

    max_length: int | None = None
    sharing: tuple[SharingCheck, ...] = ()

    def __init__(
        self,
        tokenizer: Tokenizer,
        identity: ModelIdentity,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.forward_tokens = 0
        self._format, self._seed, self._defaults = prompt_format, seed, defaults
        self._identity = identity
        self._encoder = Encoder(tokenizer)
        self._arranged = lru_cache(_ARRANGED)(lambda texts: self._arrange(self.encoded(texts)))
        self._rolling = lru_cache(_ARRANGED)(self._arrange_rolling)

    @property
    def format(self) -> PromptFormat:
        """The format of prompts, and where answers begin."""
        return self._format

    @property
    def seed(self) -> int:
        """The random seed for tasks that request sampling."""
        return self._seed

    @property
    def uses_chat_template(self) -> bool:
        """Whether questions are put into the tokenizer's chat template."""
        return self._format.chat

    def _arrange(self, pairs: Sequence[Pair]) -> Arranged:
        """Arrange pairs for scoring, which may be repeated many times."""
        return Arranged(pairs)

    @abstractmethod
    def _score(self, arranged: Arranged, advance: Advance = unwatched) -> list[LogLikelihood]:
        """Return (log-likelihood, is greedy) of each (context, continuation)."""

    @abstractmethod
    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        """Yield lists of (index in `requests`, answer) as the answers come."""

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation with the tokenizer's chat template, for lm-eval.

        Raises:
            UserError: the tokenizer has no chat template.
        """
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(f"the tokenizer of {self._identity.name!r} has no chat template")
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def check_context_length(self, requests: Sequence[TaskRequest]) -> None:
        """Check that the longest of lm-eval's requests fit, before anything is computed.

        Of each kind, only the longest in characters is checked; others are refused in their turn.

        Raises:
            UserError: a request does not fit, or the engine does not implement a setting.
        """
        generated = [one for one in requests if one.request_type == "generate_until"]
        scored = [one for one in requests if one.request_type == "loglikelihood"]
        for one in generated:
            self.decoding(one.args[1])
        if generated:
            (wanted,) = self._requests([max(generated, key=_room_taken).args])
            self._check_fits([len(wanted.prompt)], wanted.limit)
        if scored:
            longest = max(scored, key=lambda one: len(one.args[0]) + len(one.args[1]))
            context, continuation = self._encode_texts(*longest.args)
            self._check_fits([len(context) + len(continuation) - 1], 0)
        if any(one.request_type == "loglikelihood_rolling" for one in requests):
            known_length(self.max_length)

    def decoding(self, settings: GenerationSettings) -> Decoding:
        """Read a task's generation settings, all of which this engine must implement.

        Raises:
            UserError: the engine does not implement one of them.
        """
        return read_decoding(settings, self._defaults)

    def _check_fits(self, lengths: Iterable[int], room: int) -> None:
        """Refuse texts that are too long for the model.

        Raises:
            UserError: a text and the `room` for its answer do not fit into the model.
        """
        longest, most = max(lengths, default=0), self.max_length
        if longest and most is not None and longest + room > most:
            raise UserError(
                f"a prompt of {longest} tokens and {room} for its answer do not fit "
                f"into the model's {most} positions; cutting it would change the question"
            )

    @property
    def eot_token_id(self) -> int:
        """The id of the end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id of the token before a text without context, as in lm-eval's `hf` model."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """The fingerprint of the model, as part of lm-eval's request cache key."""
        return self._identity.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Encode a text; its token ids are remembered, since every variant needs the same texts."""
        return self._encoder.encode(string, add_special_tokens)

    def loglikelihood(
        self, requests: Sequence[TaskRequest], disable_tqdm: bool = True
    ) -> list[LogLikelihood]:
        """Answer lm-eval's requests; see `log_likelihoods`."""
        del disable_tqdm
        return self.log_likelihoods([request.args for request in requests])

    def log_likelihoods(
        self, texts: Sequence[tuple[str, str]], advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        """Score each (context, continuation): natural log-likelihood, and whether it is greedy.

        Tokens and arrangement are remembered for the next call.

        Raises:
            UserError: a text does not fit, or the tokenizer gives no token for a continuation.
        """
        return self._score(self._arranged(tuple(texts)), advance)

    def score_again(self, texts: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """Score texts as `log_likelihoods` does; they are neither remembered nor counted."""
        before, scores = self.forward_tokens, self._score(self._arrange(self.encoded(texts)))
        self.forward_tokens = before
        return scores

    def encoded(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """Encode each (context, continuation) as `log_likelihoods` does."""
        self._encoder.encode_together(
            text
            for context, continuation in texts
            if context
            for text in (context + continuation, context.rstrip())
        )
        return [self._encode_texts(*pair) for pair in texts]

    def _encode_texts(self, context: str, continuation: str) -> Pair:
        """Encode a pair as lm-eval does; an empty context becomes the `prefix_token_id`."""
        if context:
            before, after = self._encode_pair(context, continuation)
        else:
            before, after = [], self.tok_encode(continuation, add_special_tokens=False)
            if after[:1] != [self.prefix_token_id]:
                before = [self.prefix_token_id]
            else:
                before, after = after[:1], after[1:]
        if not after:
            # Its log-likelihood would be 0, better than that of any other option.
            raise QuotingError(f"the tokenizer gives no token for the answer {continuation!r:.60}")
        return before, after

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **_: object
    ) -> list[LogLikelihood]:
        return self._score(self._arrange([(before, after) for _, before, after in requests]))

    def loglikelihood_rolling(
        self, requests: Sequence[TaskRequest], disable_tqdm: bool = True
    ) -> list[float]:
        """Answer lm-eval's requests; see `rolling_log_likelihoods`."""
        del disable_tqdm
        return self.rolling_log_likelihoods([request.args[0] for request in requests])

    def rolling_log_likelihoods(
        self, texts: Sequence[str], advance: Advance = unwatched
    ) -> list[float]:
        """Compute the log-likelihood of each whole text, in lm-eval's windows; see `rolling`."""
        rolling = self._rolling(tuple(texts))
        with counted_as(advance, len(texts), sum(rolling.counts)) as count:
            return rolling.totals([value for value, _ in self._score(rolling.arranged, count)])

    def _arrange_rolling(self, texts: tuple[str, ...]) -> RollingTexts[Arranged]:
        tokens = [self.tok_encode(text) for text in texts]
        return RollingTexts.of(tokens, self.prefix_token_id, self.max_length, self._arrange)

    def generate_until(
        self, requests: Sequence[TaskRequest], disable_tqdm: bool = True
    ) -> list[str]:
        """Answer lm-eval's requests, with texts only; see `complete`."""
        del disable_tqdm
        for one in requests:
            try:
                self.decoding(one.args[1])
            except UserError as error:
                raise UserError(f"task {one.task_name!r}: {error}") from error
        return [completion.text for completion in self.complete([one.args for one in requests])]

    def complete(
        self,
        prompts: Sequence[tuple[str, GenerationSettings]],
        remembered: Path | None = None,
        advance: Advance = unwatched,
    ) -> list[Completion]:
        """Generate completions up to the first stop string.

        Decoding is greedy unless settings request sampling. Random numbers depend on `seed`, the
        prompt and its number of earlier occurrences in the call: not on variant and batch.

        Args:
            prompts: prompts, each with lm-eval's generation settings.
            remembered: a file of answers: its answers are used again, new ones are appended as they
                come. Its name must identify model and variant; its lines identify only requests.
            advance: called with the number of requests just answered.

        Raises:
            UserError: a prompt and its answer do not fit into the model.
        """
        wanted = list(self._requests(prompts))
        journal = None if remembered is None else ResponseLog(remembered)
        kept = {} if journal is None else journal.read()
        keys = [request_key(request) for request in wanted] if kept else []
        answers = {place: kept[key] for place, key in enumerate(keys) if key in kept}
        advance(len(answers))
        missing = [place for place in range(len(wanted)) if place not in answers]
        for some in self._answer([wanted[place] for place in missing]):
            advance(len(some))
            answers |= {missing[place]: answer for place, answer in some}
            if journal is not None:
                journal.add([(wanted[missing[place]], answer) for place, answer in some])
        return [self._completion(request, answers[p]) for p, request in enumerate(wanted)]

    def _requests(self, prompts: Iterable[tuple[str, GenerationSettings]]) -> Iterator[Request]:
        drawn: Counter[tuple[int, ...]] = Counter()
        for text, settings in prompts:
            prompt, decoding = tuple(self.tok_encode(text)), self.decoding(settings)
            thinks = self.format.thinks_after(text)
            yield Request(
                prompt,
                self._limit(len(prompt), decoding.max_gen_toks, thinks),
                # The end of text also stops where the model spells it, as in lm-eval's `hf`.
                tuple(filter(None, [*decoding.until, self.tokenizer.eos_token])),
                self.format.think_end if thinks else (),
                Sampling.of(decoding, repr((self.seed, drawn[prompt], prompt))),
                shaping=decoding.shaping,
            )
            drawn[prompt] += 1

    def _limit(self, prompt: int, asked: int, thinks: bool) -> int:
        """Return the task's limit, or `answer_tokens` (at most the free positions) if larger."""
        room = (self.format.answer_tokens or 0) if thinks else 0
        if self.max_length is not None:
            room = min(room, self.max_length - prompt)
        return max(asked, room)

    def _completion(self, request: Request, answer: Answer) -> Completion:
        read = read_answer(self.tokenizer, self.format, request, answer, self._identity.name)
        return Completion(read.text, len(answer.tokens), not read.stopped)


def _room_taken(request: TaskRequest) -> tuple[int, int]:
    """Return the sort key of a request: characters of its prompt, then its answer's limit."""
    prompt, settings = request.args
    return len(prompt), read_decoding(settings).max_gen_toks

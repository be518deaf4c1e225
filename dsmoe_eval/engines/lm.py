"""What the engines' LMs share, as lm-eval asks for it: tokens in, tokens' answers out."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import QuotingError, UserError
from ..experts.tokenizer import Tokenizer
from ..models.prompt_format import PLAIN, PromptFormat
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
from .sharing import SharingCheck

Tokens = Sequence[int]
Pair = tuple[Tokens, Tokens]
_ARRANGED = 64
"""Sets of texts whose tokens and arrangement are remembered: each arm asks for the same ones."""


@dataclass(frozen=True, eq=False)
class Arranged:
    """(context, continuation) pairs, none of them empty, as an engine scores them.

    An engine that plans how to score them keeps its plan here, so that it is made once.
    """

    pairs: Sequence[Pair]


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's LM; an engine says how token ids are scored and continued.

    Args:
        tokenizer: the model's.
        identity: the model's.
        prompt_format: how prompts stand, and where answers begin.
        seed: of what is drawn where a task asks for sampling.
        defaults: generation settings that act where a task sets nothing.

    Attributes:
        forward_tokens: tokens that the model has computed, generated ones and padding left out.
        max_length: tokens that the model has positions for; None where that is not known.
        sharing: comparisons with whole texts so far, where what texts share is computed once.
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
        self._arranged = lru_cache(_ARRANGED)(self._arrange_texts)

    @property
    def format(self) -> PromptFormat:
        """How prompts stand, and where answers begin."""
        return self._format

    @property
    def seed(self) -> int:
        """Of what is drawn where a task asks for sampling."""
        return self._seed

    @property
    def uses_chat_template(self) -> bool:
        """Whether questions are put into the tokenizer's chat template."""
        return self._format.chat

    def _arrange(self, pairs: Sequence[Pair]) -> Arranged:
        """Prepare pairs to be scored, perhaps many times."""
        return Arranged(pairs)

    @abstractmethod
    def _score(self, arranged: Arranged, advance: Advance = unwatched) -> list[LogLikelihood]:
        """(log-likelihood, is greedy) of each (context, continuation)."""

    @abstractmethod
    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        """(place in `requests`, answer), some at a time, as they come."""

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the tokenizer's template, as lm-eval asks for it.

        Raises:
            UserError: the tokenizer has none.
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
        """Try the longest of lm-eval's requests for room, before anything is computed.

        Of each kind that in characters: what it misses is refused when its turn comes.

        Raises:
            UserError: it does not fit into the model.
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

    def decoding(self, settings: GenerationSettings) -> Decoding:
        """Read a task's generation settings as this engine meets them, all or none.

        Raises:
            UserError: it does not know one of them.
        """
        return read_decoding(settings, self._defaults)

    def _check_fits(self, lengths: Iterable[int], room: int) -> None:
        """Refuse what a model has no positions for.

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
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context, as with lm-eval's `hf` model."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's request cache key."""
        return self._identity.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Token ids of a text; remembered, since every variant asks for the same texts."""
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

        The tokens of texts, and how they are arranged, are remembered for the next call.

        Raises:
            UserError: a text does not fit, or the tokenizer gives no token for a continuation.
        """
        return self._score(self._arranged(tuple(texts)), advance)

    def _arrange_texts(self, texts: tuple[tuple[str, str], ...]) -> Arranged:
        self._encoder.encode_together(
            text
            for context, continuation in texts
            if context
            for text in (context + continuation, context.rstrip())
        )
        return self._arrange([self._encode_texts(*pair) for pair in texts])

    def _encode_texts(self, context: str, continuation: str) -> Pair:
        """Token ids as lm-eval has them; an empty context is the `prefix_token_id`."""
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
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self._score(self._arrange(pairs))

    def loglikelihood_rolling(
        self, requests: Sequence[TaskRequest], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows of the model's length.

        The windows are lm-eval's: each token is predicted once, the first from `prefix_token_id`.

        Raises:
            UserError: the engine does not know how much the model can take.
        """
        del disable_tqdm
        if self.max_length is None:
            raise UserError(
                "rolling log-likelihood (perplexity tasks) is not served by this engine"
            )
        pairs: list[Pair] = []
        counts = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            before = len(pairs)
            pairs += map(make_disjoint_window, windows)
            counts.append(len(pairs) - before)
        values = iter([value for value, _ in self._score(self._arrange(pairs))])
        return [sum(islice(values, count)) for count in counts]

    def generate_until(
        self, requests: Sequence[TaskRequest], disable_tqdm: bool = True
    ) -> list[str]:
        """Answer lm-eval's requests with the texts alone; see `complete`."""
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
        """Continue prompts up to a first stop string; greedy where no temperature is asked for.

        What is drawn depends on `seed`, the prompt and how often that prompt came before in this
        call, and so is the same for every variant and batch.

        Args:
            prompts: with lm-eval's settings of each.
            remembered: a file of answers: those that it has are taken, new ones are added as they
                come. Its name must tell who answers, since it tells apart requests alone.
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
                # The end of text also where the model spells it, as in lm-eval's `hf`.
                tuple(filter(None, [*decoding.until, self.tokenizer.eos_token])),
                self.format.think_end if thinks else (),
                Sampling.of(decoding, repr((self.seed, drawn[prompt], prompt))),
                shaping=decoding.shaping,
            )
            drawn[prompt] += 1

    def _limit(self, prompt: int, asked: int, thinks: bool) -> int:
        """The task's limit, or what the model needs to think, as far as there are positions."""
        room = (self.format.answer_tokens or 0) if thinks else 0
        if self.max_length is not None:
            room = min(room, self.max_length - prompt)
        return max(asked, room)

    def _completion(self, request: Request, answer: Answer) -> Completion:
        read = read_answer(self.tokenizer, self.format, request, answer, self._identity.name)
        return Completion(read.text, len(answer.tokens), not read.stopped)


def _room_taken(request: TaskRequest) -> tuple[int, int]:
    """Characters of a prompt, and among equal ones the longest answer."""
    prompt, settings = request.args
    return len(prompt), read_decoding(settings).max_gen_toks

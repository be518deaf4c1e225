"""What the engines' LMs share, as lm-eval asks for it: tokens in, tokens' answers out."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..cards import MAX_NEW_TOKENS
from ..errors import QuotingError, UserError
from ..models.prompt_format import PromptFormat
from ..steering import ModelIdentity
from .requests import Answer, Completion, Request, Sampling, cut, thought_and_said
from .response_log import Journal, request_key

Tokens = Sequence[int]


def _nobody(_count: int) -> None:
    """Follows nothing."""


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's LM; an engine says how token ids are scored and continued.

    Attributes:
        forward_tokens: tokens that the model has computed, generated ones and padding left out.
        max_length: tokens that the model has positions for; None where that is not known.
        format: how prompts stand, and where answers begin; plain unless set.
        seed: of what is drawn where a task asks for sampling.
    """

    max_length: int | None = None

    def __init__(self, tokenizer: Any, identity: ModelIdentity) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.forward_tokens = 0
        self.format = PromptFormat()
        self.seed = 0
        self._identity = identity
        self._journal: Journal | None = None
        self._answered: Callable[[int], object] = _nobody
        self._encoded: dict[str, list[int]] = {}

    @abstractmethod
    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (context, continuation); none of them is empty."""

    @abstractmethod
    def _answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Answer]]]:
        """(place in `requests`, answer), some at a time, as they come."""

    @contextmanager
    def remembering(self, path: Path, advance: Callable[[int], object] = _nobody) -> Iterator[None]:
        """Keep generated answers in a file inside the context, and take those that it holds.

        Args:
            path: its name must tell who answers: it is asked for requests alone.
            advance: called with the number of requests just answered, as they are.
        """
        self._journal, self._answered = Journal(path), advance
        try:
            yield
        finally:
            self._journal, self._answered = None, _nobody

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
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

    def check_room(self, requests: Sequence[Any]) -> None:
        """Try the longest of lm-eval's requests for room, before anything is computed.

        Of each kind that in characters: what it misses is refused when its turn comes.

        Raises:
            UserError: it does not fit into the model.
        """
        generated = [one for one in requests if one.request_type == "generate_until"]
        scored = [one for one in requests if one.request_type == "loglikelihood"]
        if generated:
            (wanted,) = self._requests([max(generated, key=_room_taken)])
            self._check_fits([len(wanted.prompt)], wanted.limit)
        if scored:
            longest = max(scored, key=lambda one: len(one.args[0]) + len(one.args[1]))
            context, continuation = self._encode_pair(*longest.args)
            self._check_fits([len(context) + len(continuation) - 1], 0)

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
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text; remembered, since every variant asks for the same texts."""
        special = add_special_tokens is not False
        if add_special_tokens is None:
            # A text that has the first token in words is not given it twice (as lm-eval's `hf`).
            start = self.tokenizer.bos_token or self.tokenizer.eos_token
            special = not (start and string.startswith(start))
        key = f"{int(special)}{string}"
        if key not in self._encoded:
            self._encoded[key] = self.tokenizer.encode(string, add_special_tokens=special)
        return self._encoded[key]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (context, continuation); no bar of lm-eval's own.

        Raises:
            UserError: the tokenizer gives no token for a continuation.
        """
        del disable_tqdm
        result: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return result

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for texts, _context, continuation in requests:
            if not continuation:
                # Its log-likelihood would be 0, better than that of any other option.
                raise QuotingError(f"the tokenizer gives no token for the answer {texts[1]!r:.60}")
        return self._score([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
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
        pairs: list[tuple[Tokens, Tokens]] = []
        counts = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            before = len(pairs)
            pairs += map(make_disjoint_window, windows)
            counts.append(len(pairs) - before)
        values = iter([value for value, _ in self._score(pairs)])
        return [sum(islice(values, count)) for count in counts]

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[Completion]:
        """Continuations, cut at the first stop string; greedy where no temperature is asked for.

        What is drawn depends on `seed`, the prompt and how often that prompt came before in this
        call, and so is the same for every variant and batch.

        Raises:
            UserError: a prompt and its answer do not fit into the model.
        """
        del disable_tqdm
        wanted = list(self._requests(requests))
        kept = self._journal.read() if self._journal else {}
        keys = [request_key(request) for request in wanted] if kept else []
        answers = {place: kept[key] for place, key in enumerate(keys) if key in kept}
        self._answered(len(answers))
        missing = [place for place in range(len(wanted)) if place not in answers]
        for some in self._answer([wanted[place] for place in missing]):
            self._answered(len(some))
            answers |= {missing[place]: answer for place, answer in some}
            if self._journal is not None:
                self._journal.add([(wanted[missing[place]], answer) for place, answer in some])
        return [self._completion(request, answers[p]) for p, request in enumerate(wanted)]

    def _requests(self, requests: Sequence[Any]) -> Iterator[Request]:
        drawn: Counter[tuple[int, ...]] = Counter()
        for request in requests:
            text, settings = request.args
            prompt = tuple(self.tok_encode(text))
            until = settings.get("until") or []
            yield Request(
                prompt,
                self._limit(len(prompt), settings),
                tuple(filter(None, [until] if isinstance(until, str) else until)),
                self.format.think_end,
                _sampling(settings, repr((self.seed, drawn[prompt], prompt))),
            )
            drawn[prompt] += 1

    def _limit(self, prompt: int, settings: dict[str, Any]) -> int:
        """The task's limit, or what the model needs to think, as far as there are positions."""
        asked = settings.get("max_gen_toks") or settings.get("max_new_tokens") or MAX_NEW_TOKENS
        room = self.format.answer_tokens or 0
        if self.max_length is not None:
            room = min(room, self.max_length - prompt)
        return max(int(asked), room)

    def _completion(self, request: Request, answer: Answer) -> Completion:
        _, said = thought_and_said(answer, request.after)
        text = str(self.tokenizer.decode(said, skip_special_tokens=True))
        text = cut(text.lstrip("\n") if request.after else text, request.stops)
        return Completion(text, len(answer.tokens), answer.reason == "max_tokens")


def _room_taken(request: Any) -> tuple[int, int]:
    """Characters of a prompt, and among equal ones the longest answer."""
    prompt, settings = request.args
    return len(prompt), int(settings.get("max_gen_toks") or MAX_NEW_TOKENS)


def _sampling(settings: dict[str, Any], content: str) -> Sampling | None:
    """As transformers reads them: `do_sample` alone is temperature 1; False, or 0, is greedy."""
    temperature = settings.get("temperature")
    if temperature is None:
        temperature = 1.0 if settings.get("do_sample") else 0.0
    if float(temperature) <= 0 or settings.get("do_sample") is False:
        return None
    seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:7])
    return Sampling(float(temperature), seed, settings.get("top_p"), settings.get("top_k"))

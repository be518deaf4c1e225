"""What the engines' LMs share, as lm-eval asks for it: tokens in, tokens' answers out."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import UserError
from ..steering import ModelIdentity

MAX_NEW_TOKENS = 256
"""Where a task does not say how much may be generated, as lm-eval's `hf`."""

Tokens = Sequence[int]


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's LM; an engine says how token ids are scored and continued.

    Attributes:
        forward_tokens: tokens that the model has computed, generated ones and padding left out.
        max_length: tokens that the model has positions for; None where that is not known.
    """

    max_length: int | None = None

    def __init__(self, tokenizer: Any, identity: ModelIdentity) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.forward_tokens = 0
        self._identity = identity
        self._encoded: dict[str, list[int]] = {}

    @abstractmethod
    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (context, continuation); none of them is empty."""

    @abstractmethod
    def _continue(self, prompts: Sequence[Tokens], limit: int) -> list[str]:
        """Greedy continuations: at most `limit` tokens each, up to the end of text."""

    def _continue_until(
        self, prompts: Sequence[Tokens], limit: int, stops: Sequence[str]
    ) -> list[str]:
        """As `_continue`; an engine may end a text where a stop string is in it, or go on."""
        del stops
        return self._continue(prompts, limit)

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
                raise UserError(f"the tokenizer gives no token for the answer {texts[1]!r:.60}")
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

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, cut at the first stop string.

        Raises:
            UserError: a task asks for sampling.
        """
        del disable_tqdm
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[_generation_settings(request.args[1])].append(index)
        texts = [""] * len(requests)
        for (limit, stops), members in groups.items():
            prompts = [self.tok_encode(requests[index].args[0]) for index in members]
            answers = self._continue_until(prompts, limit, stops)
            for index, text in zip(members, answers, strict=True):
                texts[index] = _cut(text, stops)
        return texts


def _generation_settings(settings: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise UserError("the task asks for sampling; this version generates greedily only")
    until = settings.get("until") or []
    limit = settings.get("max_gen_toks") or settings.get("max_new_tokens") or MAX_NEW_TOKENS
    return int(limit), tuple(filter(None, [until] if isinstance(until, str) else until))


def _cut(text: str, stops: Iterable[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text

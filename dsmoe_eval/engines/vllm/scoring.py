"""Log-likelihoods of continuations in vLLM, with each context computed once.

`prompt_logprobs` gives the log-probabilities of all tokens of a text, but computes all of them for
every text. So continuations are decoded instead, each token forced (see `forcing`): their context
is in the prefix cache after the first of them, except its last tokens, which fill no block. All
continuations of one token behind a context are one request.

Each decoded token needs one more step. Where that costs more than it saves, as for a long text
that is read once, `prompt_logprobs` stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...steering import SteeringError
from ...tasks.language_model import LogLikelihood

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.logprobs import FlatLogprobs

Tokens = tuple[int, ...]
Pair = tuple[Tokens, Tokens]

FORCE = "dsmoe_force"
"""The key of the forced tokens in a request's `extra_args`."""
_TOKENS_AT_ONCE = 128
"""vLLM's limit of `logprob_token_ids`."""
_STEP = 4
"""Tokens of a prompt that count as much as one decoded token: steps are small batches."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to vLLM, which scores continuations of one context.

    Attributes:
        context: token ids, at least one.
        continuations: token ids of each, at least one: one continuation of any length, or many of
            one token each.
        whole: whether the text is read in one piece, by `prompt_logprobs`.
    """

    context: Tokens
    continuations: tuple[Tokens, ...]
    whole: bool = False

    @property
    def prompt(self) -> Tokens:
        """The tokens that vLLM gets before it generates."""
        return (*self.context, *self.continuations[0]) if self.whole else self.context

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that the request scores, in the order of `read`."""
        return [(self.context, continuation) for continuation in self.continuations]

    @property
    def settings(self) -> dict[str, object]:
        """The request's `SamplingParams`."""
        found: dict[str, object] = {"flat_logprobs": True, "ignore_eos": True}
        if self.whole:
            found["prompt_logprobs"] = 0
        elif len(self.continuations[0]) == 1:
            found["logprob_token_ids"] = [token for (token,) in self.continuations]
        else:
            (forced,) = self.continuations
            found |= {"logprobs": 0, "max_tokens": len(forced)}
            found["extra_args"] = {FORCE: list(forced)}
        return found

    def read(self, output: RequestOutput) -> list[LogLikelihood]:
        """Return (log-likelihood, is greedy) of each continuation from vLLM's answer.

        As with `prompt_logprobs`, a token is greedy if no other has as large a probability.

        Raises:
            SteeringError: vLLM's answer is of other tokens.
        """
        flat = output.prompt_logprobs if self.whole else output.outputs[0].logprobs
        if self.whole or len(self.continuations[0]) > 1:
            return [_sum(flat, self.continuations[0])]
        tokens = [flat.token_ids[0], *(token for (token,) in self.continuations)]
        _check(flat.token_ids, tokens)
        likeliest = tokens[0] if flat.ranks[0] == 1 else None
        values = zip(tokens[1:], flat.logprobs[1:], strict=True)
        return [(value, token == likeliest) for token, value in values]


def plan_scoring(pairs: Iterable[Pair], block: int) -> list[ScoreRequest]:
    """Return the requests that score distinct pairs; those of one context are neighbours.

    Args:
        pairs: (context, continuation), in any order, possibly repeated.
        block: number of tokens of a block of the prefix cache; 0 if there is no such cache.
    """
    options: dict[Tokens, dict[Tokens, None]] = defaultdict(dict)
    for context, continuation in pairs:
        options[tuple(context)][tuple(continuation)] = None
    requests, before = list[ScoreRequest](), Tokens()
    for context in sorted(options):
        requests += _requests(
            context, list(options[context]), _shared(before, context, block), block
        )
        before = context
    return requests


def _requests(
    context: Tokens, continuations: Sequence[Tokens], cached: int, block: int
) -> list[ScoreRequest]:
    """Return the requests of one context, of which the first `cached` tokens are in the cache."""
    letters = [one for one in continuations if len(one) == 1]
    longer = [one for one in continuations if len(one) > 1]
    starts = range(0, len(letters), _TOKENS_AT_ONCE)
    requests = [ScoreRequest(context, tuple(letters[n : n + _TOKENS_AT_ONCE])) for n in starts]
    rest = (len(context) % block or block) if block and block < len(context) else len(context)
    first = rest if requests else len(context) - cached
    decoded = sum(map(len, longer)) - len(longer)
    forced = first + rest * (len(longer) - 1) + _STEP * decoded
    whole = forced > sum(len(context) + len(one) for one in longer)
    return requests + [ScoreRequest(context, (one,), whole) for one in longer]


def _shared(one: Tokens, other: Tokens, block: int) -> int:
    """Return how many tokens, in whole blocks, two texts begin with; the last is computed anew."""
    end = (min(len(one), len(other) - 1) // block * block) if block else 0
    starts = range(0, end, block or 1)
    return next((n for n in starts if one[n : n + block] != other[n : n + block]), end)


def _sum(flat: FlatLogprobs, tokens: Tokens) -> LogLikelihood:
    """Return the sum over the last tokens, and whether all are greedy."""
    starts = flat.start_indices[-len(tokens) :]
    _check([flat.token_ids[start] for start in starts], list(tokens))
    values = [flat.logprobs[start] for start in starts]
    return sum(values), all(flat.ranks[start] == 1 for start in starts)


def _check(found: Sequence[int], expected: Sequence[int]) -> None:
    if list(found) != list(expected):
        raise SteeringError(
            f"vLLM scored the tokens {list(found)!r:.80} instead of {list(expected)!r:.80}; "
            "it must run with dsmoe-eval's logits processors"
        )

"""The end of each answer of a batch: end of text, stop string or limit.

Ends of text and limits are tested on the device at each step. Stop strings are searched on the
host every few steps, with one copy of the tokens since the last search; what was generated behind
one is cut off, so an answer ends where a search at each step would have ended it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ...experts.tokenizer import Tokenizer
from ..requests import Request, holds_stop

ROWS_A_STEP = 8
"""Rows whose text may be searched per step: with 64 rows, each is searched every eighth step.

So a search takes below 1 % of a step, and a lone row is searched at each step on a CPU.
"""
STEPS_ELSEWHERE = 4
"""Least number of steps between two searches where a copy to the host waits for the device."""
RARE_STEPS = 32
"""Steps between two searches of a lone row that only the spelled end of text would stop.

Models hardly ever spell it, so a search at each step costs more than these steps.
"""
LEFT_OVER = {"cpu": 4}
LEFT_OVER_ELSEWHERE = 2
"""The batch pauses to drop its finished rows where they are at least one in this number of rows.

On a CPU each row costs time; on a GPU a step costs nearly the same with half as many rows.
"""
_UNDECODED = "\ufffd"


class Stops(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """A criterion that ends each answer of a batch separately, and pauses to drop finished rows.

    A stop string is searched in the text of the last tokens first; if it is there, it must also be
    in the whole answer. So a text counts as stopped exactly where it will be cut: a tokenizer that
    tidies the beginning of decoded text may decode the last tokens to a stop string that the whole
    answer does not have.

    Attributes:
        places: the index of the request of each row that is in the batch now.
        lengths: number of tokens of each answer; None while it goes on.
        stopped: whether each answer ended at an end of text or stop string.
        pauses: whether the batch pauses to drop finished rows.
        tokens: the tokens of each answer that were read so far; none behind its end.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        tokenizer: Tokenizer,
        ends: Iterable[int],
        device: torch.device,
    ) -> None:
        self._requests, self._tokenizer, self._device = requests, tokenizer, device
        self._end_tokens = frozenset(ends)
        self._spelled = {getattr(tokenizer, "eos_token", None)}
        self._ends = torch.tensor(sorted(self._end_tokens), dtype=torch.long, device=device)
        self._starts = [None if request.after else 0 for request in requests]
        self._changes = [bool(one.stops) and _text_changes(tokenizer, one) for one in requests]
        self._steps = self._unread = 0
        self.pauses = True
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.lengths: list[int | None] = [None] * len(requests)
        self.stopped = [False] * len(requests)
        self.places = list(range(len(requests)))
        self.keep(self.places)

    def keep(self, rows: Sequence[int]) -> None:
        """Remove all other rows from the batch."""
        self.places = [self.places[row] for row in rows]
        requests = [self._requests[place] for place in self.places]
        limits = [request.limit for request in requests]
        # transformers ends all rows together where all limits are the same
        self._limits = torch.tensor(limits, device=self._device) if len({*limits}) > 1 else None
        self._done = self._finished()
        on_cpu = self._device.type == "cpu"
        self._interval = max(1 if on_cpu else STEPS_ELSEWHERE, len(rows) // ROWS_A_STEP)
        if len(rows) == 1 and {*requests[0].stops} <= self._spelled:
            self._interval = RARE_STEPS

    def steps_left(self) -> int:
        """Return the number of steps until the last row of the batch has reached its limit."""
        return max(self._requests[place].limit for place in self.places) - self._steps

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Return which rows are finished; all of them where the batch pauses."""
        del scores
        self._steps += 1
        self._unread += 1
        if self._unread < self._interval:
            if self._end_tokens:
                self._done = self._done | torch.isin(input_ids[:, -1], self._ends)
            if self._limits is not None:
                self._done = self._done | (self._limits <= self._steps)
            return self._done
        rows = self.read(input_ids)
        share = LEFT_OVER.get(self._device.type, LEFT_OVER_ELSEWHERE)
        if self.pauses and (len(self.places) - len(rows)) * share >= len(self.places):
            return torch.ones_like(self._done)
        return self._done

    def read(self, input_ids: Tensor) -> list[int]:
        """Return the rows that go on, by a search in the tokens since the last search."""
        if self._unread:
            fresh = input_ids[:, -self._unread :].tolist()
            self._unread = 0
            going = [row for row, place in enumerate(self.places) if self.lengths[place] is None]
            for row in going:
                self._read(self.places[row], fresh[row])
            if any(self.lengths[self.places[row]] is not None for row in going):
                self._done = self._finished()
        return [row for row, place in enumerate(self.places) if self.lengths[place] is None]

    def _finished(self) -> Tensor:
        done = [self.lengths[place] is not None for place in self.places]
        return torch.tensor(done, device=self._device)

    def _read(self, place: int, fresh: Sequence[int]) -> None:
        request, tokens = self._requests[place], self.tokens[place]
        searched = self._may_stop(place, fresh)
        for token in fresh:
            tokens.append(token)
            stopped = searched and self._stops(place)
            if request.after and tuple(tokens[-len(request.after) :]) == request.after:
                self._starts[place] = len(tokens)
            self.stopped[place] = stopped or token in self._end_tokens
            if self.stopped[place] or len(tokens) >= request.limit:
                self.lengths[place] = len(tokens)
                return

    def _may_stop(self, place: int, fresh: Sequence[int]) -> bool:
        """Return whether a stop string may end in new tokens, by one look at all of them.

        As long as a text only grows, what it holds after one of the tokens it holds after the last.
        """
        request, begin = self._requests[place], self._starts[place]
        if not request.stops or begin is None or self._changes[place]:
            return bool(request.stops)
        near = self.tokens[place][self._tail(place) :]
        return holds_stop(self._tokenizer, [*near, *fresh], request)

    def _stops(self, place: int) -> bool:
        """Return whether the tokens so far end in a stop string."""
        request, tokens, begin = self._requests[place], self.tokens[place], self._starts[place]
        if begin is None:
            return False
        last = self._tail(place)
        return holds_stop(self._tokenizer, tokens[last:], request) and (
            last == begin or holds_stop(self._tokenizer, tokens[begin:], request)
        )

    def _tail(self, place: int) -> int:
        """Return where the last tokens begin that can hold a stop string."""
        longest = 4 * max(map(len, self._requests[place].stops)) + 8  # at most 4 tokens a character
        return max(self._starts[place] or 0, len(self.tokens[place]) - longest)


def _text_changes(tokenizer: Tokenizer, request: Request) -> bool:
    """Return whether a further token may take a stop string away from a text.

    So it is with tokenizers that tidy decoded text ("do not" becomes "don't"), and with the
    character for a part of a character. These texts are searched after each of their tokens.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    tidies = getattr(tokenizer, "clean_up_tokenization_spaces", False)
    return (
        bool(tidies)
        or bool(getattr(decoder, "cleanup", False))
        or any(_UNDECODED in stop for stop in request.stops)
    )

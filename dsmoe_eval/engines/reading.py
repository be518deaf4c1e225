"""The scored form of an answer: without the thinking, and cut at the first stop string."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from dataclasses import dataclass

from ..errors import EvalWarning
from ..experts.tokenizer import Tokenizer
from ..models.prompt_format import MARKERS, PromptFormat
from .requests import Answer, Request, Tokens, answer_text, cut, holds_stop, split_reasoning

_TAIL = 64
"""Number of tokens at the end of a prompt in which its template may begin the thinking."""
_MARK = re.compile(
    "|".join(map(re.escape, [*MARKERS, *MARKERS.values()]))
    + r"|<\|?/?(?:(?:begin|start|end)_(?:of_)?)?(?:\w+:)?"
    r"(?:think|thinking|thoughts?|reason|reasoning)(?:_(?:begin|start|end))?\|?>",
    re.IGNORECASE,
)
"""A pattern of marks that look like the beginning or the end of thinking."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, split into thinking and text.

    Attributes:
        thought: tokens of the thinking; None if there is none.
        said: tokens of the answer after the thinking.
        text: text of the answer, up to the first stop string; without leading blanks if the model
            may have thought before it.
        stopped: whether the answer ended at an end of text or a stop string, not at its limit.
    """

    thought: Tokens | None
    said: Tokens
    text: str
    stopped: bool


def read_answer(
    tokenizer: Tokenizer, prompt_format: PromptFormat, request: Request, answer: Answer, model: str
) -> Reading:
    """Read an answer, and warn if it has unknown marks of thinking.

    Args:
        tokenizer: the model's tokenizer.
        prompt_format: the model's prompt format, which has the marks of its thinking.
        request: the request; its `after` is empty if the model does not think.
        answer: the answer to it.
        model: the model's name, for the warning.
    """
    thought, said, lead = _split(tokenizer, prompt_format, request, answer)
    text = answer_text(tokenizer, said, request)
    if lead:
        text = cut((lead + text).lstrip(), request.stops)
    stopped = answer.reason == "stop" or holds_stop(tokenizer, said, request)
    _warn_of_unknown_marks(_text(tokenizer, said), model)
    return Reading(thought, said, text, stopped)


def _split(
    tokenizer: Tokenizer, prompt_format: PromptFormat, request: Request, answer: Answer
) -> tuple[Tokens | None, Tokens, str]:
    """Return the thinking, the answer, and answer text from the thinking's last token.

    The token that ends the thinking may also contain the first characters of the answer: these are
    the third value, which is otherwise empty.
    """
    thought, said = split_reasoning(answer, request.after, began=False)
    if not request.after or thought is not None:
        return thought, said, ""
    place = _place_of_text(tokenizer, prompt_format.marker, answer.tokens)
    if place is not None and len(request.after) > 1:
        thought, said = answer.tokens[:place], answer.tokens[place:]
        return thought, said, _text(tokenizer, thought).rpartition(prompt_format.marker)[2]
    began = _begun(tokenizer, prompt_format, request, answer)
    return *split_reasoning(answer, request.after, began), ""


def _place_of_text(tokenizer: Tokenizer, marker: str, tokens: Tokens) -> int | None:
    """Return the number of tokens up to the end of the last marker; None without a marker.

    The marker is searched in the text, since its tokens depend on the text before it: after a full
    stop, `</think>` that is no special token may begin with the token `.</`.
    """
    marks = _text(tokenizer, tokens).count(marker) if marker else 0
    if not marks:
        return None
    places = range(len(tokens) + 1)
    return bisect_left(places, marks, key=lambda n: _text(tokenizer, tokens[:n]).count(marker))


def _begun(
    tokenizer: Tokenizer, prompt_format: PromptFormat, request: Request, answer: Answer
) -> bool:
    """Return whether the prompt or the answer begins the thinking.

    The result is True if the prompt format has no turn or no mark by which that can be seen.
    """
    start, end = prompt_format.think_start, prompt_format.marker
    if prompt_format.turn is None or not start:
        return True
    asked = _text(tokenizer, request.prompt[-_TAIL:])
    opened = asked.rfind(start) > asked.rfind(end)
    return opened or _text(tokenizer, answer.tokens).lstrip().startswith(start)


def _text(tokenizer: Tokenizer, tokens: Tokens) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


def _warn_of_unknown_marks(said: str, model: str) -> None:
    found = _MARK.search(said)
    if found is None:
        return
    mark = found.group()
    ends = (end for end, start in MARKERS.items() if mark in (start, end))
    end = next(ends, mark if "/" in mark or "end" in mark.casefold() else "TEXT")
    warnings.warn(
        f"answers of model {model!r} have {mark!r}, which looks like thinking, and where it ends "
        "is not known here: the thinking is scored and cut as if it were the answer. Name its end, "
        f"such as think_end_token={end}, in the plan, in --model_args of dsmoe-lm-eval or by -M in "
        "Inspect, or in the model's card",
        EvalWarning,
        stacklevel=3,
    )

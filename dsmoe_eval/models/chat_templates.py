"""Chat templates are programs of a model's author: they may fail, never end, or write gigabytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..errors import QuotingError, UserError, out_of_memory
from ..experts.tokenizer import Tokenizer
from .folder_checks import reason

MOST_STEPS = 200_000
"""The most lines of a compiled template that one conversation may take; common are 100s."""
LONGEST = 10_000_000
"""The most characters of a conversation in a template."""
_COMPILED = "<template>"
"""The file name that Jinja gives to a compiled template."""


class _EndlessError(Exception):
    """A template has taken too many steps."""


def guard_template(tokenizer: Tokenizer, name: str) -> None:
    """Make the tokenizer's `apply_chat_template` end, with a `UserError` where it fails.

    Args:
        tokenizer: changed: whoever uses it, here or in lm-eval and Inspect, is guarded.
        name: the model's name, for the messages.
    """
    render = tokenizer.apply_chat_template

    def guarded(conversation: object, **options: object) -> object:
        try:
            with _limited_steps():
                rendered: object = render(conversation, **options)
        except Exception as error:  # a template may raise anything
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            raise QuotingError(
                f"model {name!r}: its chat template fails ({reason(error)}); take `prompt: plain` "
                "in the plan, or mend chat_template in the model's folder"
            ) from error
        if isinstance(rendered, str) and len(rendered) > LONGEST:
            raise UserError(
                f"model {name!r}: its chat template writes {len(rendered):,} characters, more than "
                f"{LONGEST:,}; take `prompt: plain` in the plan, or mend the template"
            )
        return rendered

    setattr(tokenizer, "apply_chat_template", guarded)  # noqa: B010 - of this instance alone


@contextmanager
def _limited_steps() -> Iterator[None]:
    """Count the lines of compiled templates that are run inside, and stop endless ones."""
    steps = 0

    def count(_frame: FrameType, _event: str, _arg: object) -> Any:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS:
            raise _EndlessError(f"more than {MOST_STEPS:,} steps for one conversation")
        return count

    def enter(frame: FrameType, _event: str, _arg: object) -> Any:
        return count if frame.f_code.co_filename == _COMPILED else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)

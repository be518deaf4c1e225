"""Refusals of vLLM's workers on their way to the caller.

Errors lose their class outside of a worker, so a refusal is marked in its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ...steering.errors import SteeringError

Reply = TypeVar("Reply")
REFUSED = "[steering refused: {}]"
_MARKED = re.compile(r"\[steering refused: (.*)\]", re.DOTALL)


@contextmanager
def worker_refusals() -> Iterator[None]:
    """Turn a marked refusal into its error; other errors pass.

    Raises:
        SteeringError: the workers refuse.
    """
    try:
        yield
    except Exception as error:
        refusal = _MARKED.search(str(error))
        if refusal is None:
            raise
        raise SteeringError(refusal.group(1)) from error


def agreed(method: str, replies: Sequence[Reply]) -> Reply:
    """Return the reply of all workers to a method; their routers are equal, so replies must be.

    Raises:
        SteeringError: the workers disagree.
    """
    if any(reply != replies[0] for reply in replies):
        raise SteeringError(f"vLLM's workers disagree on {method}: {replies}")
    return replies[0]

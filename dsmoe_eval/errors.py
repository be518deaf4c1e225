"""The errors that a user can act on, and their text. All other exceptions are bugs.

UserError        a request that cannot be fulfilled: a plan, file, name, model or data set is wrong
QuotingError     a UserError that quotes an item; it is shown but not logged
EvalWarning      a warning that may be logged: it names models, files and numbers
"""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|failed to map segment|bad_alloc",
    re.I,
)


def printable(text: str) -> str:
    r"""Return the text with control characters, such as ESC, written out as `\x1b`.

    Line breaks and tabs are kept; characters that reverse the direction of writing are not.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is a lack of memory on any device."""
    while error is not None:
        if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


class UserError(Exception):
    """A request that cannot be fulfilled; the message says what is wrong, where, and what to do.

    The command line prints the message and exits with 3.
    """


class QuotingError(UserError):
    """A UserError whose message quotes a question or an answer; logs leave it out."""


class EvalWarning(UserWarning):
    """A warning that a part of the program works differently from what a user may expect."""

"""The errors that a user can act on. All other exceptions are bugs and keep their traceback.

UserError        a request that cannot be fulfilled: a plan, file, name, model or data set is wrong
QuotingError     a UserError that quotes an item; it is shown but not logged
EvalWarning      a warning that may be logged: it names models, files and numbers
"""


class UserError(Exception):
    """A request that cannot be fulfilled; the message says what is wrong, where, and what to do.

    The command line prints the message and exits with 3.
    """


class QuotingError(UserError):
    """A UserError whose message quotes a question or an answer; logs leave it out."""


class EvalWarning(UserWarning):
    """A warning that a part of the program works differently from what a user may expect."""

"""The errors that a user can act on. Any other exception is a bug and keeps its traceback.

UserError        a request that cannot be fulfilled: a plan, file, name, model or data set is wrong
"""


class UserError(Exception):
    """A request that cannot be fulfilled; the message says what is wrong, where, and what to do.

    The command line prints the message and exits with 3.
    """

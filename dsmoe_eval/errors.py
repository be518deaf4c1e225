"""The errors of the harness: what a user can act on. All else is a bug and keeps its traceback.

UserError        a request that cannot be met as given: plan, file, name, model, data
QuotingError     a UserError that quotes an item, and so is shown and not logged
EvalWarning      a warning that may be logged: it names models, files and numbers
"""


class UserError(Exception):
    """One sentence: what is wrong, where, and the way out. The CLI shows it and exits with 3."""


class QuotingError(UserError):
    """A UserError whose sentence quotes a question or an answer: logs leave it out."""


class EvalWarning(UserWarning):
    """Something works in another way than it should, and a user may want to know."""

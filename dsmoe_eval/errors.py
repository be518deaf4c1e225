"""The errors of the harness: what a user can act on. All else is a bug and keeps its traceback.

UserError        a request that cannot be met as given: plan, file, name, model, data
"""


class UserError(Exception):
    """One sentence: what is wrong, where, and the way out. The CLI shows it and exits with 3."""

"""The effects that a run foretold before it answered the test split; part of `comparisons.json`."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from ..cards import OutcomeName
from ..errors import UserError
from .arms import VariantName
from .folder import RunFolder
from .outcomes import Ends
from .paired import Hash, Name, Number, Record

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ForetoldChange(Record):
    """The foretold change of one outcome of a task, under an arm at its settings.

    Attributes:
        n: number of items of the identification split that were answered by base and by the arm.
        clusters: number of their clusters.
        test_clusters: number of clusters of the test items.
        gain: the mean change of these items, positive for the better, in the outcome's unit.
        ci95: the 95 % prediction interval of the gain on the test items; None where all items are
            one cluster, or all differ alike.
        first_order: the sum over experts of influence times shift; None where the arm shifts no
            logits or is on a quantized model, or the outcome is not `gold_logprob`.
    """

    task: Name
    outcome: OutcomeName
    n: Annotated[int, Field(ge=1)]
    clusters: Number
    test_clusters: Number
    gain: float
    ci95: Ends | None
    first_order: float | None = None


class ForetoldArm(Record):
    """What is foretold of an arm.

    Attributes:
        profile: the id of its profile; None where it has none.
        changes: the foretold changes, the target's task first.
        without: its tasks of which the run reads no items in the identification split.
    """

    variant: VariantName
    target: Name
    profile: Hash | None
    changes: tuple[ForetoldChange, ...]
    without: tuple[Name, ...] = ()

    def change(self, task: str, outcome: OutcomeName) -> ForetoldChange | None:
        """Return what is foretold of an outcome of a task; None if there is nothing."""
        rows = (row for row in self.changes if (row.task, row.outcome) == (task, outcome))
        return next(rows, None)


class Predictions(Record):
    """The content of `foretold.json`.

    Attributes:
        form: the form of influence in `first_order`; None where it was not computed.
        arms: all arms of the run.
    """

    schema_version: Literal[1] = 1
    form: Literal["exact", "gradient"] | None
    arms: Annotated[tuple[ForetoldArm, ...], Field(min_length=1)]


class Foretold(Predictions):
    """What a run foretold, as `comparisons.json` has it.

    Attributes:
        digest: the SHA-256 of `foretold.json`, which is older than any steered answer.
    """

    digest: Digest

    def arm(self, variant: str, target: str) -> ForetoldArm | None:
        """Return what is foretold of an arm; None if the file has no such arm."""
        return next((a for a in self.arms if (a.variant, a.target) == (variant, target)), None)


def read_foretold(folder: RunFolder) -> Foretold | None:
    """Read what a run foretold; None of a plan without `foretell`.

    Raises:
        UserError: the file is damaged, or is not what the run wrote.
    """
    if not folder.has(folder.foretold):
        return None
    content = folder.read(folder.foretold)
    try:
        found = Predictions.model_validate_json(content)
    except ValueError as error:
        raise UserError(
            f"{folder.foretold}: damaged ({str(error).splitlines()[0]}); restore it, or run again "
            "in another folder"
        ) from error
    return Foretold(**dict(found), digest=hashlib.sha256(content).hexdigest())


def check_foretold(folder: RunFolder, stated: Foretold | None) -> None:
    """Check that a run's predictions are those that its comparisons were made with.

    Raises:
        UserError: they are others, or are missing, of a plan with `foretell` on both sides too.
    """
    if stated is None and folder.identity.is_file():
        plan = folder.read_json(folder.identity).get("plan", {})
        if plan.get("foretell"):
            raise UserError(
                f"{folder.comparisons}: has no predictions, which its plan asks for, so it was "
                "changed after the test; restore it, or run again in another folder"
            )
    if read_foretold(folder) != stated:
        raise UserError(
            f"{folder.foretold}: is not the file of predictions that {folder.comparisons.name} was "
            "made with, so one of the two was changed after the test; restore it, or run again in "
            "another folder"
        )

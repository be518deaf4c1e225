"""The super experts of a run's model, as the run's folder keeps them."""

from __future__ import annotations

from .folder import RunFolder
from .paired import Number, Record

KEY = "super_experts"
"""The key of the guard in `identification.json`."""


class Spared(Record):
    """A super expert, and the largest size of a number of its output."""

    layer: Number
    expert: Number
    peak: float


class Guard(Record):
    """The super experts that no arm switches off.

    Attributes:
        looked: whether they were looked for; not every engine and model shows experts' outputs.
        tokens: number of tokens on which they were looked for.
        experts: those that were found, the largest first.
    """

    looked: bool
    tokens: Number
    experts: tuple[Spared, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) of each of them."""
        return tuple((one.layer, one.expert) for one in self.experts)

    @property
    def words(self) -> str | None:
        """A sentence for the report; None where there is nothing to say."""
        return self.say("arm", "the plan's `super_experts: allow`")

    def say(self, who: str, way_out: str) -> str | None:
        """Return the sentence for other readers than a report's; None likewise.

        Args:
            who: what spares them: an arm, a profile.
            way_out: the setting that lifts that.
        """
        if not self.looked:
            return (
                "Super experts, whose removal breaks a model as such, were not looked for: the "
                "model is dense, or the learner does not show the outputs of single experts."
            )
        if not self.experts:
            return None
        named = ", ".join(f"layer {one.layer} expert {one.expert}" for one in self.experts)
        return (
            f"Super experts, whose removal breaks the model as such: {named}. No {who} masks, "
            f"prunes or forces them out, and no placebo draws them; {way_out} lifts that."
        )


def read_guard(folder: RunFolder) -> Guard | None:
    """Read the guard of a run; None if the run needed none.

    Raises:
        UserError: the file is damaged.
    """
    if not folder.has(folder.identification):
        return None
    found = folder.read_json(folder.identification).get(KEY)
    return None if found is None else Guard.model_validate(found, strict=False)

"""Outcomes: what is compared of an item, its unit, its direction and its default margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OutcomeName = Literal["score", "gold_logprob", "bits_per_byte"]
Continuous = Literal["gold_logprob", "bits_per_byte"]
"""The names of the outcomes that are not the task's metric."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is compared of an item.

    Attributes:
        name: its name in plans and files.
        title: its name in words.
        unit: the unit of its level; of its changes too.
        higher_is_better: whether a higher level is better; a gain is positive in either case.
        margin: the default margin of non-inferiority in its unit; None: the plan's `margin`.
    """

    name: OutcomeName
    title: str
    unit: str
    higher_is_better: bool
    margin: float | None

    @property
    def sign(self) -> int:
        """The factor that turns a change of the level into a gain."""
        return 1 if self.higher_is_better else -1


OUTCOMES: Mapping[OutcomeName, Outcome] = {
    one.name: one
    for one in (
        Outcome("score", "score", "fraction of items", True, None),
        Outcome("gold_logprob", "log-probability of the right option", "nats", True, 0.05),
        Outcome("bits_per_byte", "bits per byte of held-out text", "bits per byte", False, 0.02),
    )
}
"""Every outcome by its name."""

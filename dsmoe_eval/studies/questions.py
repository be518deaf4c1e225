"""The questions of a suite on which the effect of a profile is foretold, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..cards import StageSplit, Suite
from ..engines.lm import EngineLM
from ..errors import UserError
from ..registry import load_suite
from ..steering import Profile
from ..tasks.loading import LoadedTask, check_context_length, in_format
from ..tasks.splits import load_splits

Part = Literal["target", "non-targets"]
ANSWERED: tuple[StageSplit, ...] = ("identification", "tuning")


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions from which a profile's effect is foretold.

    Attributes:
        suite: the suite's name.
        domain: the profile's domain.
        parts: the tasks of the target and of the non-targets.
        splits: split -> task name -> its items.
        without: the domain's tasks that lack items in the identification or the tuning split.
    """

    suite: str
    domain: str
    parts: Mapping[Part, tuple[str, ...]]
    splits: Mapping[StageSplit, Mapping[str, LoadedTask]]
    without: tuple[str, ...]

    def in_format(self, lm: EngineLM) -> Questions:
        """Return the questions in the LM's chat template if the LM uses one.

        Raises:
            UserError: a prompt does not fit into the model.
        """
        splits = {
            split: {name: in_format(task, lm) for name, task in tasks.items()}
            for split, tasks in self.splits.items()
        }
        for split in ANSWERED:
            for task in splits[split].values():
                check_context_length(task, lm)
        return replace(self, splits=splits)

    def items(self, names: Sequence[str], split: StageSplit) -> list[int]:
        """Return the number of items of each of these tasks in a split."""
        return [len(self.splits[split][name].items) for name in names]

    def answers(self, split: StageSplit) -> int:
        """Return the number of answers to a split."""
        return sum(task.answers_asked for task in self.splits[split].values())


def load_questions(
    suite: str, profile: Profile, limit: int | None = None, data: Sequence[Path] = ()
) -> Questions:
    """Load the questions of a suite on which a profile's effect is foretold.

    Args:
        suite: a suite's name or path.
        profile: the profile, whose domain is the target.
        limit: the most items per task and split; None: all.
        data: folders with the data sets; if empty, they come from the hub.

    Raises:
        UserError: the profile changes nothing, its domain is no target of the suite, or the target
            has no items in the identification split.
    """
    card, domain = load_suite(suite), profile.source.domain
    if profile.is_null:
        raise UserError(f"profile {profile.id} changes nothing: its strength is 0, or it is empty")
    if domain not in card.targets:
        raise UserError(
            f"profile {profile.id} is of domain {domain!r}, which is no target of suite "
            f"{card.name!r}; targets: {', '.join(card.targets)}"
        )
    found = load_splits(card, limit, data, (domain,), answered_text=True)
    names = [task.name for task in card.tasks_for(domain)]
    known = [name for name in names if all(name in found[split] for split in (*ANSWERED, "test"))]
    target = card.target_task(domain).name
    if target not in known:
        raise UserError(
            f"suite {card.name!r}: {target}, the task of {domain}, has no items in the "
            "identification split, so that nothing can be foretold; give it such a split"
        )
    splits: dict[StageSplit, Mapping[str, LoadedTask]] = {
        split: {name: found[split][name] for name in known} for split in (*ANSWERED, "test")
    }
    return Questions(
        suite=card.name,
        domain=domain,
        parts=_parts(card, domain, known),
        splits=splits,
        without=tuple(name for name in names if name not in known),
    )


def _parts(card: Suite, domain: str, known: Sequence[str]) -> dict[Part, tuple[str, ...]]:
    target = card.target_task(domain).name
    parts: dict[Part, tuple[str, ...]] = {"target": (target,)}
    if others := tuple(name for name in known if name != target):
        parts["non-targets"] = others
    return parts

"""What may be set for a run beside its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What may be set for a run beside its plan.

    Attributes:
        limit: at most so many items of each task and split; for trying things out.
        device: a torch device; by default the first GPU, else the CPU.
        model: instead of the plan's, or which one where it has several.
        seed: instead of the plan's.
        data: folders that hold the data sets; none: they come from the hub.
    """

    limit: int | None = None
    device: str | None = None
    model: str | None = None
    seed: int | None = None
    data: Sequence[Path] = ()


AS_PLANNED = RunOptions()
"""Nothing set: all as the plan has it."""

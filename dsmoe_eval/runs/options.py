"""What may be set for a run beside its plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What may be set for a run beside its plan.

    Attributes:
        limit: at most so many items of each task and split; for trying things out.
        device: a torch device; by default the first GPU, else the CPU.
        model: instead of the plan's, or which one where it has several.
        seed: instead of the plan's.
    """

    limit: int | None = None
    device: str | None = None
    model: str | None = None
    seed: int | None = None


AS_PLANNED = RunOptions()
"""Nothing set: all as the plan has it."""

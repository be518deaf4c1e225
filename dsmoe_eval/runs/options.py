"""Settings of a run beside its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Settings of a run beside its plan.

    Attributes:
        limit: limit of items per task and split, for a smoke test.
        device: a torch device; by default the first GPU, else the CPU.
        model: replaces the plan's model, or selects one of several.
        seed: replaces the plan's seed.
        data: folders of data sets; if empty, they come from the hub.
    """

    limit: int | None = None
    device: str | None = None
    model: str | None = None
    seed: int | None = None
    data: Sequence[Path] = ()


AS_PLANNED = RunOptions()
"""The options of a run that changes no setting of its plan."""

"""The effect of a profile to first order: the influence of experts times the shifts of logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..steering import Profile, logit_shift

FormOfInfluence = Literal["exact", "gradient"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slopes:
    """The mean influence of experts on the items of tasks.

    Attributes:
        form: the form of influence.
        by_task: task name -> [layers, experts], nats per log-odds.
    """

    form: FormOfInfluence
    by_task: Mapping[str, Floats]

    def of(self, profile: Profile, task: str) -> float | None:
        """Return the effect of a profile on the mean outcome of a task, to first order.

        It is the sum over experts of influence times shift. None where the profile shifts no
        logits, or the task's influence is not known.
        """
        shifts = logit_shifts(profile)
        if shifts is None or task not in self.by_task:
            return None
        return float((self.by_task[task] * shifts).sum())


def logit_shifts(profile: Profile) -> Floats | None:
    """Return what a profile adds to the logits, [layers, experts] in log-odds.

    None for other interventions than a bias on logits.
    """
    intervention = profile.intervention
    if (intervention.kind, intervention.channel) != ("bias", "logit"):
        return None
    rows = {layer: row for row, layer in enumerate(profile.model.layers)}
    shifts = np.zeros((len(rows), profile.model.experts))
    for one in profile.experts:
        shifts[rows[one.layer], one.expert] = logit_shift(intervention, one)
    return shifts

"""The effect of a profile to first order: influence times shifts of logits, or of neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..steering import EXPERTS, Profile, logit_shift

FormOfInfluence = Literal["exact", "gradient"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slopes:
    """The mean influence of experts on the items of tasks.

    Attributes:
        form: the form of influence.
        by_task: task name -> [layers, experts], nats per log-odds; of neurons per 1 + s.
    """

    form: FormOfInfluence
    by_task: Mapping[str, Floats]

    def of(self, profile: Profile, task: str) -> float | None:
        """Return the effect of a profile on the mean outcome of a task, to first order.

        It is the sum over units of influence times shift. None where the profile shifts no
        logits, or the task's influence is not known.
        """
        shifts = unit_shifts(profile)
        if shifts is None or task not in self.by_task:
            return None
        return float((self.by_task[task] * shifts).sum())


def unit_shifts(profile: Profile) -> Floats | None:
    """Return what a profile adds, [layers, experts]: to logits, or to the factors of neurons.

    None for interventions on experts other than a bias on logits, which is in log-odds.
    """
    intervention = profile.intervention
    neurons = profile.model.sites != EXPERTS
    if not neurons and (intervention.kind, intervention.channel) != ("bias", "logit"):
        return None
    strength = -intervention.strength if intervention.kind == "mask" else intervention.strength
    rows = {layer: row for row, layer in enumerate(profile.model.layers)}
    shifts = np.zeros((len(rows), profile.model.experts))
    for one in profile.experts:
        shift = strength if neurons else logit_shift(intervention, one)
        shifts[rows[one.layer], one.expert] = shift
    return shifts

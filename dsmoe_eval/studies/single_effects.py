"""The measured effect of single experts: each in turn is masked, or raised, and outcomes are read.

Methods' scores and predictions are compared with it: no formula is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..models.probing import trial_profile
from ..steering import ChosenExpert, Intervention

Floats = NDArray[np.float64]
MASK = Intervention(kind="mask", strength=1.0)
RAISED_BY = 0.5
"""The shift by which an expert is raised, in units of the layer's logit spread (sigma)."""


def raise_by(sigmas: Mapping[int, float], shift: float = RAISED_BY) -> Intervention:
    """Return the intervention that raises an expert's logit by a shift in units of sigma."""
    return Intervention(
        kind="bias", strength=shift, unit="sigma", sigmas=tuple(sorted(sigmas.items()))
    )


def single_effects(
    engine: Engine,
    intervention: Intervention,
    experts: Sequence[tuple[int, int]],
    outcomes: Callable[[], Floats],
    before: Floats,
    advance: Callable[[int], None] = lambda _: None,
) -> Floats:
    """Measure the change of each outcome by one expert after the other.

    Args:
        engine: the model's engine.
        intervention: what is done to an expert.
        experts: (layer, expert) of each, the layer as the model numbers it.
        outcomes: reads the outcomes [items] of the steered model.
        before: [items], the outcomes of the model without steering.
        advance: called with 1 after each expert.

    Returns:
        [experts, items].

    Raises:
        SteeringError: the model's routers do not allow the intervention.
    """
    profile = trial_profile(engine.identity, intervention, [0])
    changes = np.zeros((len(experts), len(before)))
    for row, (layer, expert) in enumerate(experts):
        chosen = (ChosenExpert(layer=layer, expert=expert, score=1.0),)
        with engine.steer(profile.model_copy(update={"experts": chosen})):
            changes[row] = outcomes() - before
        advance(1)
    return changes

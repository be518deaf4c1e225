"""The measured effect of single experts: each in turn is masked, or raised, and outcomes are read.

Or of groups of them, such as those of a dense model's neurons, of which there are too many.
Methods' scores and predictions are compared with it: no formula is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..models.probing import trial_profile
from ..steering import EXPERTS, ChosenExpert, Intervention, Sites

Floats = NDArray[np.float64]
MASK = Intervention(kind="mask", strength=1.0)
RAISED_BY = 0.5
"""The shift by which an expert is raised, in units of the layer's logit spread (sigma).

A neuron is multiplied by 1 plus it."""


def raise_by(sigmas: Mapping[int, float], shift: float = RAISED_BY) -> Intervention:
    """Return the intervention that raises an expert's logit by a shift in units of sigma."""
    return Intervention(
        kind="bias", strength=shift, unit="sigma", sigmas=tuple(sorted(sigmas.items()))
    )


def raise_units(sites: Sites, sigmas: Mapping[int, float] | None) -> Intervention:
    """Return the intervention that raises a unit: an expert's logit, or a neuron's activation.

    Args:
        sites: what the units are.
        sigmas: of each layer, the spread of its logits; None for neurons.
    """
    if sites == EXPERTS:
        return raise_by(sigmas or {})
    return Intervention(kind="amplify", strength=RAISED_BY)


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
    groups = [[one] for one in experts]
    return group_effects(engine, intervention, groups, outcomes, before, advance)


def group_effects(
    engine: Engine,
    intervention: Intervention,
    groups: Sequence[Sequence[tuple[int, int]]],
    outcomes: Callable[[], Floats],
    before: Floats,
    advance: Callable[[int], None] = lambda _: None,
) -> Floats:
    """Measure the change of each outcome by one group of experts after the other.

    A group's experts are masked or raised together. See `single_effects` for the rest.

    Returns:
        [groups, items].
    """
    profile = trial_profile(engine.identity, intervention, [0])
    changes = np.zeros((len(groups), len(before)))
    for row, group in enumerate(groups):
        chosen = tuple(ChosenExpert(layer=at, expert=one, score=1.0) for at, one in group)
        with engine.steer(profile.model_copy(update={"experts": chosen})):
            changes[row] = outcomes() - before
        advance(1)
    return changes

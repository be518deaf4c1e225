"""What a pass over identification text must give: as much as the methods need, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..cards import Identification, Sft
from ..experts import Method


@dataclass(frozen=True, slots=True)
class IdentificationSpec:
    """The data that a pass over the identification text must give.

    Attributes:
        settings: the presentation of the text.
        saliency: whether the saliency of tokens is needed.
        contributions: whether experts' contributions are needed.
        markers: the tokens whose routing is counted separately -> their coefficients.
        influence: whether the influence of experts on right answers is needed.
        activity: whether the activity of neurons is needed.
        router_tuning: whether the change of use by router tuning is needed; `sft` is its pace.
    """

    settings: Identification
    saliency: bool
    contributions: bool
    markers: Mapping[str, float]
    influence: bool = False
    activity: bool = False
    router_tuning: bool = False
    sft: Sft | None = field(default=None, kw_only=True)

    @classmethod
    def by(
        cls, methods: Sequence[Method], settings: Identification, markers: Mapping[str, float]
    ) -> IdentificationSpec:
        """Return the specification of the data that the methods need, and no more."""
        kinds = ("saliency", "contributions", "influence", "activity", "router_tuning")
        first, second, *more = (any(getattr(one, kind) for one in methods) for kind in kinds)
        return cls(settings, first, second, markers, *more)

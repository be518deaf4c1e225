"""The registry of identification methods: built in, and from installed packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from . import scores
from .counts import RoutingCounts
from .scores import Scores

ENTRY_POINTS = "dsmoe_eval.methods"
"""The group of entry points; each of them is a `Method`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method that scores and chooses experts.

    Attributes:
        name: the name in profiles and plans.
        score: computes scores [layers, experts] from counts and a domain.
        saliency: whether it needs token saliency, and so a backward pass.
        contributions: whether it needs experts' contributions.
        influence: whether it needs the influence of experts on right answers.
        net: whether it needs that on the other domains' answers, too.
        router_tuning: whether it needs the change of use by tuning of the routers.
        activity: whether it needs the activity of neurons, where the units are neurons.
        layer_share: the default choice, if no number of experts is given: in each layer the fewest
            best experts whose scores sum to at least this; None for the best 1 % of all experts.
        signed: whether a negative score is a reason to deactivate the expert (by `force`).
        placebo_of: for placebos: the method to whose experts random experts are matched.
    """

    name: str
    score: Callable[[RoutingCounts, str], Scores]
    saliency: bool = False
    contributions: bool = False
    influence: bool = False
    net: bool = False
    router_tuning: bool = False
    activity: bool = False
    layer_share: float | None = None
    signed: bool = False
    placebo_of: str | None = None

    @property
    def reads_answers(self) -> bool:
        """Whether it scores experts by right answers, and not by text alone."""
        return self.influence or self.router_tuning

    @property
    def summary(self) -> str:
        """The first line of the score's docstring."""
        if self.placebo_of is not None:
            return f"Placebo: random experts, matched on layer and exposure to {self.placebo_of}'s."
        return (self.score.__doc__ or "").partition("\n")[0]


_BUILT_IN = (
    Method("dsmoe", scores.dsmoe, saliency=True),
    Method("dsmoe-code", scores.dsmoe_code, saliency=True),
    Method("frequency", scores.frequency),
    Method("preference", scores.preference, saliency=True),
    Method("risk-difference", scores.risk_difference, signed=True),
    Method("npmi", scores.npmi),
    # The shares are from the paper: 0.1 of the gate scores, 0.2 of the tokens.
    Method("esft-gate", scores.esft_gate, layer_share=0.1),
    Method("esft-token", scores.esft_token, layer_share=0.2),
    Method("easy-ep", scores.easy_ep, contributions=True),
    Method("reap", scores.reap, contributions=True),
    Method("lape", scores.lape, activity=True),
    Method("influence", scores.influence, influence=True),
    Method("influence-net", scores.influence_net, influence=True, net=True),
    Method("router-lens", scores.router_lens, router_tuning=True),
    Method("random", scores.dsmoe, saliency=True, placebo_of="dsmoe"),
)


def all_methods() -> dict[str, Method]:
    """Return all methods by name, built-in ones first.

    Raises:
        ValueError: an entry point of an installed package is no `Method`, or its name is in use.
    """
    methods = {method.name: method for method in _BUILT_IN}
    for point in _installed():
        method = point.load()
        if not isinstance(method, Method) or method.name in methods:
            raise ValueError(
                f"entry point {point.name!r} of {ENTRY_POINTS} ({point.value}) is no Method, or "
                "its name is in use; remove or correct that package"
            )
        methods[method.name] = method
    return methods


@cache  # reading the entry points of every installed package takes tens of milliseconds
def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def get_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ValueError: there is no such method; the message lists all methods.
    """
    methods = all_methods()
    if name not in methods:
        raise ValueError(f"no method {name!r}; there are: {', '.join(methods)}")
    return methods[name]

"""The wrapper: put a profile on a model, and take it off again."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from torch import nn

from . import seam
from .errors import SteeringError
from .interventions import layer_effect
from .profile import Profile
from .routers import Router, find_routers, router_hash


class Steering:
    """A profile on a model: a context manager, or `install()` and `remove()` by hand.

    A profile at strength zero is installed like any other, so that a sham run takes the same path.
    """

    def __init__(self, model: nn.Module, profile: Profile) -> None:
        self.profile = profile
        self.routers = find_routers(model)
        check_fits(profile, self.routers)

    def install(self) -> Steering:
        """Steer from the next forward pass on; on failure the model stays as it was.

        Raises:
            SteeringError: the model is steered already, or a router cannot be steered.
        """
        installed: list[Router] = []
        chosen = self.profile.by_layer()
        try:
            for router in self.routers:
                if router.layer in chosen:
                    self._attach(router, chosen[router.layer])
                    installed.append(router)
        except SteeringError:
            for router in installed:
                seam.detach(router.module)
            raise
        return self

    def remove(self) -> None:
        """Leave the model as it was found; harmless when nothing is installed."""
        for router in self.routers:
            seam.detach(router.module)

    def __enter__(self) -> Steering:
        return self.install()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _attach(self, router: Router, experts: tuple[int, ...]) -> None:
        effect = layer_effect(self.profile.intervention, experts, router.experts, router.device)
        seam.attach(router.module, effect)


def steer(model: nn.Module, profile: Profile) -> Steering:
    """Steer `model` by `profile` inside a `with` block.

    Example:
        >>> with steer(model, profile):  # doctest: +SKIP
        ...     model.generate(**inputs)

    Raises:
        SteeringError: the profile is for another model, or the model's routers cannot be steered.
    """
    return Steering(model, profile)


def check_fits(profile: Profile, routers: Sequence[Router]) -> None:
    """Refuse a profile of another model: other layers, other experts, or other router weights.

    Raises:
        SteeringError: with what differs in the message.
    """
    layers = tuple(router.layer for router in routers)
    experts = {router.experts for router in routers}
    if layers != profile.model.layers or experts != {profile.model.experts}:
        raise SteeringError(
            f"profile {profile.id} is for {profile.model.name!r} ({len(profile.model.layers)} MoE "
            f"layers of {profile.model.experts} experts); this model has {len(layers)} of "
            f"{sorted(experts)}. Identify the experts of this model instead"
        )
    if router_hash(routers) != profile.model.routers:
        raise SteeringError(
            f"profile {profile.id} is for {profile.model.name!r}; the routers of this model have "
            "the same shape and other weights. Identify the experts of this model instead"
        )

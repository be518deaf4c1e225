"""The units that are counted and steered: experts behind routers, or neurons of dense FFNs.

Only this module distinguishes the two. Whoever counts, chooses or steers finds a model's sites
here; a `Router` and a `NeuronSite` have layer, name, module, number of units and top-k in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from torch import nn

from .capture import Routing, capture_routing
from .neurons import NeuronSite, capture_neurons, find_neurons
from .routers import Router, find_routers, model_router_hash, router_hash
from .units import EXPERTS, Sites

Site: TypeAlias = Router | NeuronSite


def find_sites(model: nn.Module, sites: Sites = EXPERTS) -> tuple[Site, ...]:
    """Return the sites of a model, in layer order, all with the same number of units.

    Raises:
        SteeringError: the model has none of this kind, or some that this version cannot steer.
    """
    return find_routers(model) if sites == EXPERTS else find_neurons(model, sites.block)


def capture_selected(found: Sequence[Site]) -> AbstractContextManager[Routing]:
    """Record which units each token selects, and their weights or sizes; see `capture_routing`."""
    neurons = neurons_of(found)
    return capture_neurons(neurons) if neurons else capture_routing(routers_of(found))


def sites_hash(found: Sequence[Site]) -> str:
    """Compute the hash by which a model is recognised; see `router_hash`."""
    neurons = neurons_of(found)
    if not neurons:
        return model_router_hash(routers_of(found))
    samples = {}
    for site in neurons:
        with site.loaded():
            samples[site.layer] = site.sample().detach().cpu()
    return router_hash(samples)


def neurons_of(found: Sequence[Site]) -> tuple[NeuronSite, ...]:
    """Return those sites that are neurons: all of a dense model's, none of others."""
    return tuple(one for one in found if isinstance(one, NeuronSite))


def routers_of(found: Sequence[Site]) -> tuple[Router, ...]:
    """Return those sites that are routers: all of a mixture of experts', none of others."""
    return tuple(one for one in found if isinstance(one, Router))

"""The steering core: find a model's routers, edit their choice of experts, and verify the edit.

It needs torch and transformers, and nothing else of this package:

    from dsmoe_eval.steering import Profile, steer
    with steer(model, Profile.load("profile.json")):
        model.generate(**inputs)
"""

from .capture import Routing, capture_routing, capture_spread
from .errors import NoRouterError, ProbeError, SteeringError
from .folding import fold
from .interventions import logit_shift
from .meaning import check_meaning
from .neurons import NeuronSite, capture_activity, capture_sizes, find_neurons
from .probes import ModelProber, ProbeReport, probe
from .profile import ChosenExpert, Intervention, ModelIdentity, Profile, Source
from .residual import check_vectors, decoder_layers, hidden_size, watched
from .routers import Router, find_routers, model_router_hash, router_hash
from .scoring import Scoring, describe_scoring
from .shifted import Channel, RouterShift, shifted_routers
from .sites import Site, capture_selected, find_sites, neurons_of, routers_of, sites_hash
from .slopes import neuron_slopes
from .steer import Measured, Steering, check_fits, steer
from .units import EXPERTS, Sites
from .zero_bias import add_zero_biases

__all__ = [
    "EXPERTS",
    "Channel",
    "ChosenExpert",
    "Intervention",
    "Measured",
    "ModelIdentity",
    "ModelProber",
    "NeuronSite",
    "NoRouterError",
    "ProbeError",
    "ProbeReport",
    "Profile",
    "Router",
    "RouterShift",
    "Routing",
    "Scoring",
    "Site",
    "Sites",
    "Source",
    "Steering",
    "SteeringError",
    "add_zero_biases",
    "capture_activity",
    "capture_routing",
    "capture_selected",
    "capture_sizes",
    "capture_spread",
    "check_fits",
    "check_meaning",
    "check_vectors",
    "decoder_layers",
    "describe_scoring",
    "find_neurons",
    "find_routers",
    "find_sites",
    "fold",
    "hidden_size",
    "logit_shift",
    "model_router_hash",
    "neuron_slopes",
    "neurons_of",
    "probe",
    "router_hash",
    "routers_of",
    "shifted_routers",
    "sites_hash",
    "steer",
    "watched",
]

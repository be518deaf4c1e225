"""The core: which routers a model has, what is done to their choice, and the proof that it is done.

Needs torch and transformers and nothing of the harness:

    from dsmoe_eval.steering import Profile, steer
    with steer(model, Profile.load("profile.json")):
        model.generate(**inputs)
"""

from .capture import Routing, capture_routing
from .errors import ProbeError, SteeringError
from .folding import fold
from .probes import Prober, ProbeReport, probe
from .profile import ChosenExpert, Intervention, ModelIdentity, Profile, Source
from .routers import Router, find_routers, model_router_hash, router_hash
from .scoring import Scoring, check_meaning, describe_scoring
from .steer import Steering, check_fits, steer

__all__ = [
    "ChosenExpert",
    "Intervention",
    "ModelIdentity",
    "ProbeError",
    "ProbeReport",
    "Prober",
    "Profile",
    "Router",
    "Routing",
    "Scoring",
    "Source",
    "Steering",
    "SteeringError",
    "capture_routing",
    "check_fits",
    "check_meaning",
    "describe_scoring",
    "find_routers",
    "fold",
    "model_router_hash",
    "probe",
    "router_hash",
    "steer",
]

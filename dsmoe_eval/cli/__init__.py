"""The command line: each command parses, calls one function of the lower folders, and prints.

Heavy imports happen inside the commands, so that `--help` is fast.
"""

from . import (
    compare,
    copying,
    existence,
    experts,
    gate,
    influence,
    keep,
    leaderboard,
    listing,
    models,
    power,
    predict,
    regress,
    runs,
    serve,
    simsmoe,
    status,
    view,
)
from .main import main

__all__ = [
    "compare",
    "copying",
    "existence",
    "experts",
    "gate",
    "influence",
    "keep",
    "leaderboard",
    "listing",
    "main",
    "models",
    "power",
    "predict",
    "regress",
    "runs",
    "serve",
    "simsmoe",
    "status",
    "view",
]

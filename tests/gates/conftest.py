"""A small result in which everything is well, as `comparisons.json` would hold it."""

import copy

import pytest

from dsmoe_eval.results.comparisons import SCHEMA_VERSION

VARIANTS = ("sham", "contrast", "random", "wrong-domain")
TARGETS = ("math", "law")
DOMAINS = ("biology", "physics")


def comparison(delta=0.0, reach=0.01, verdict="equivalent", **more):
    ends = [delta - reach, delta + reach]
    figures = {"n": 400, "score_a": 0.5, "score_b": 0.5 + delta, "delta": delta, "ci95": ends}
    p_value = 1.0 if verdict in ("equivalent", "inconclusive") else 0.01
    figures |= {"p_value": p_value, "p_adjusted": p_value, "gained": 10, "lost": 10, "mde80": 0.03}
    return figures | {"claim": {"verdict": verdict, "words": f"{verdict}, it is said"}} | more


def held(delta=0.0, reach=0.01):
    return {"delta": delta, "lower_bound": delta - reach, "holds": True}


def arm(variant, target):
    gain = 0.2 if variant == "contrast" else 0.0
    gained = comparison(0.2, 0.04, "improves") if gain else comparison(reach=0.015)
    over = comparison(0.2, 0.05, "improves") if variant == "contrast" else None
    names = [f"{domain}_task" for domain in DOMAINS]
    return {
        "variant": variant,
        "target": target,
        "probe": {"null_max_difference": 0.0, "logit_max_change": 0.0 if not gain else 2.5},
        "cells": {f"{target}_task": "0" * 16} | dict.fromkeys(names, "1" * 16),
        "equal_to_base": variant == "sham",
        "target_result": gained,
        "non_target_result": comparison(reach=0.008, non_inferiority=held(reach=0.008)),
        "domains": [
            comparison(reach=0.019, domain=domain, task=name, non_inferiority=held(reach=0.019))
            for domain, name in zip(DOMAINS, names, strict=True)
        ],
        "generalization": {
            "retention": 1.0,
            "flipped": {"target": 0.2, "non_target": 0.01},
            "tokens_ratio": 1.0,
            "invalid": 0.0,
            "truncated": 0.0,
            "over_placebo": over,
            "specificity": copy.deepcopy(over),
        },
    }


def whole_result():
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": "p",
        "suite": "s",
        "variants": list(VARIANTS),
        "targets": list(TARGETS),
        "rehearsal": False,
        "alpha": 0.05,
        "margin": 0.02,
        "run": {"model": "m", "fingerprint": "f", "limit": None},
        "base": [],
        "arms": [arm(variant, target) for target in TARGETS for variant in VARIANTS],
        "leakage": {"pairs": 0, "items": [], "checked": [{"split": "test", "items": 400}]},
    }


@pytest.fixture
def data():
    """A fresh copy that may be changed."""
    return whole_result()


@pytest.fixture(scope="session")
def make_data():
    return whole_result


@pytest.fixture
def contrast(data):
    """The arm contrast on math, within `data`."""
    return next(a for a in data["arms"] if (a["variant"], a["target"]) == ("contrast", "math"))

"""A small result in which everything is well, as `comparisons.json` would hold it."""

import copy

import pytest

from dsmoe_eval.results.schema import SCHEMA_VERSION

from ..leaderboards.conftest import make_run  # noqa: F401 - a fixture

VARIANTS = ("sham", "contrast", "random", "wrong-domain")
TARGETS = ("math", "law")
DOMAINS = ("biology", "physics")


def figures_of(delta=0.0, reach=0.01, p_value=1.0, **more):
    figures = {"ci95": [delta - reach, delta + reach], "p_value": p_value, "p_adjusted": p_value}
    return figures | {"test": "sign-flip permutation", "mde80": 0.03, "clusters": 400} | more


def comparison(delta=0.0, reach=0.01, p_value=1.0, **more):
    scores = {"n": 400, "score_a": 0.5, "score_b": 0.5 + delta, "gained": 10, "lost": 10}
    return figures_of(delta, reach, p_value) | scores | {"answers": None} | more


def held(reach):
    return {"non_inferiority": {"lower_bound": -reach, "p_value": 0.001}}


def answers():
    rates = {"mean_tokens": 10.0, "truncated": 0.0, "invalid": 0.0}
    whole = {"n": 400, "delta": 0.0}
    return {"a": dict(rates), "b": dict(rates), "n": 400, "count": 400, "both_whole": whole}


def arm(variant, target):
    gains = variant == "contrast"
    own = comparison(0.2, 0.04, 0.01) if gains else comparison(reach=0.015)
    over = comparison(0.2, 0.05, 0.01) if gains else None
    names = [f"{domain}_task" for domain in DOMAINS]
    row = {
        "variant": variant,
        "target": target,
        "settings": None,
        "profile": None,
        "probe": {"null_max_difference": 0.0, "logit_max_change": 2.5 if gains else 0.0},
        "cells": {f"{target}_task": "0" * 16} | dict.fromkeys(names, "1" * 16),
        "target_result": own | {"answers": answers()},
        "non_targets": figures_of(reach=0.008) | held(0.008),
        "domains": [
            comparison(reach=0.019, domain=domain, task=name) | held(0.019)
            for domain, name in zip(DOMAINS, names, strict=True)
        ],
        "over_placebo": over,
        "specificity": copy.deepcopy(over),
        "over_prompt": copy.deepcopy(over),
        "over_quantized": copy.deepcopy(over),
        "information": {
            "texts": 9,
            "answers": 8,
            "parameters": 0,
            "settings": 3,
            "domain_named": False,
        },
        "prompt_tokens": [12.0, 12.0],
    }
    if variant == "sham":
        for one in (row["target_result"], *row["domains"]):
            one |= {"gained": 0, "lost": 0}
    return row


def base(task, domain):
    return {
        "task": task, "domain": domain, "role": "target" if domain in TARGETS else "non-target",
        "cell": "2" * 16, "n": 400, "score": 0.5, "ci95": None, "version": "3" * 16,
        "answers": None,
    }  # fmt: skip


def whole_result():
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": "p",
        "seed": 0,
        "significance_level": 0.05,
        "margin": 0.02,
        "variants": list(VARIANTS),
        "targets": list(TARGETS),
        "suite_targets": list(TARGETS),
        "suite_tasks": [f"{domain}_task" for domain in (*TARGETS, *DOMAINS)],
        "run": {
            "model": "m", "fingerprint": "f" * 12, "parameters": None, "engine": "transformers",
            "engine_settings": {}, "dtype": "float32", "device": "cpu",
            "experts_implementation": "eager", "suite": "s", "limit": None, "versions": {},
        },
        "base": [base(f"{domain}_task", domain) for domain in (*TARGETS, *DOMAINS)],
        "arms": [arm(variant, target) for target in TARGETS for variant in VARIANTS],
        "leakage": {
            "pairs": 0, "allowed_by": None, "checked": [{"split": "test", "items": 400}],
            "rules": [], "items": [],
        },
    }  # fmt: skip


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

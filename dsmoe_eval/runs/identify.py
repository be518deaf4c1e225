"""Expert identification on a suite's identification text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.console import Console

from ..cards import Suite
from ..engines import LoadedModel
from ..errors import UserError
from ..experts import METHODS, RoutingCounts, best_experts, count_routing, observe
from ..progress import progress_bar
from ..registry import load_suite
from ..steering import Intervention, Profile, Source
from .tasks import LoadedTask, load_tasks

PAPER_SHARE = 0.01
PAPER_STRENGTH = 4.0
"""The paper's settings: E* is about 1 % of all experts, and alpha = 5 is its best."""


def identify(
    loaded: LoadedModel,
    suite_name: str,
    domain: str,
    method: str = "dsmoe",
    *,
    intervention: Intervention | None = None,
    experts: int | None = None,
    limit: int | None = None,
    console: Console | None = None,
) -> Profile:
    """Find a domain's experts and make a profile of them.

    Args:
        loaded: the model.
        suite_name: a suite's name or path; only its identification split is read.
        domain: one of the suite's identification domains.
        method: a name in `experts.METHODS`.
        intervention: by default the paper's, `reweight` with alpha 5.
        experts: size of E*; by default the paper's, 1 % of all experts, at least one.
        limit: at most so many texts of each domain.
        console: where progress is shown.

    Raises:
        UserError: unknown suite, domain or method, or too few experts with a positive score.
    """
    suite = identification_suite(suite_name, domain, method)
    split = suite.splits.identification
    tasks = load_tasks(suite, suite.identification_tasks, split, limit)
    texts = sum(len(task.items) for task in tasks.values())
    with progress_bar(console or Console(stderr=True), "identify experts", texts) as advance:
        counts = count_domains(loaded, tasks, advance)
    scores = METHODS[method](counts, domain)
    try:
        chosen = best_experts(
            scores, counts.layers, experts or max(1, round(PAPER_SHARE * scores.size))
        )
    except ValueError as error:
        raise UserError(f"method {method!r}, domain {domain!r}: {error}") from error
    return Profile(
        model=loaded.identity,
        method=method,
        experts=chosen,
        intervention=intervention or Intervention(kind="reweight", strength=PAPER_STRENGTH),
        source=source_of(suite, tasks, domain),
    )


def identification_suite(suite_name: str, domain: str, method: str) -> Suite:
    """The suite, once domain and method are known to exist: asked before a model is loaded.

    Raises:
        UserError: unknown suite, domain or method.
    """
    suite = load_suite(suite_name)
    if method not in METHODS:
        raise UserError(f"no method {method!r}; there are: {', '.join(METHODS)}")
    if domain not in suite.identification_domains:
        there = ", ".join(suite.identification_domains)
        raise UserError(
            f"suite {suite.name!r} has no identification text of {domain!r}; it has: {there}"
        )
    return suite


def count_domains(
    loaded: LoadedModel, tasks: Mapping[str, LoadedTask], advance: Callable[[int], None]
) -> RoutingCounts:
    """Routing counts over the questions, without answers, of the given tasks, by domain."""
    texts: dict[str, list[str]] = {}
    for task in tasks.values():
        texts.setdefault(task.card.domain, []).extend(item.question for item in task.items)
    return count_routing(observe(loaded.model, loaded.tokenizer, texts, advance))


def source_of(suite: Suite, tasks: Mapping[str, LoadedTask], domain: str) -> Source:
    """Where the identification text of a domain comes from, item by item."""
    items = [i.id for task in tasks.values() if task.card.domain == domain for i in task.items]
    split = suite.splits.identification
    return Source(suite=suite.name, domain=domain, split=split, items=tuple(items))


def counts_to_json(counts: RoutingCounts) -> dict[str, Any]:
    """Counts and every method's scores, for the run's folder."""
    scores = {
        method: {domain: score(counts, domain).tolist() for domain in counts.domains}
        for method, score in METHODS.items()
    }
    return {
        "domains": counts.domains,
        "layers": counts.layers,
        "tokens": counts.tokens.tolist(),
        "used": counts.used.tolist(),
        "used_salient": counts.used_salient.tolist(),
        "scores": scores,
    }


def counts_from_json(value: dict[str, Any]) -> RoutingCounts:
    """The counts that `counts_to_json` wrote."""
    return RoutingCounts(
        domains=tuple(value["domains"]),
        layers=tuple(value["layers"]),
        tokens=np.array(value["tokens"]),
        used=np.array(value["used"]),
        used_salient=np.array(value["used_salient"]),
    )

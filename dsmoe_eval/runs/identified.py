"""What a run's folder keeps of identification: counts by domain, and the methods' scores."""

from __future__ import annotations

from collections.abc import Sequence

from ..experts import Method, RoutingCounts, column_width, in_columns
from ..steering import EXPERTS, Sites


def counts_to_json(
    counts: RoutingCounts, methods: Sequence[Method], sites: Sites = EXPERTS
) -> dict[str, object]:
    """Return the counts by domain and the methods' scores as JSON data, for the run's folder.

    Those of neurons are added up in columns; see `in_columns`.
    """
    scores = {
        method.name: {
            domain: in_columns(method.score(counts, domain), sites).tolist()
            for domain in counts.domains
        }
        for method in methods
        if method.placebo_of is None
    }
    return {
        "domains": counts.domains,
        "layers": counts.layers,
        "tokens": [counts.of(domain).tokens for domain in counts.domains],
        "used": [in_columns(counts.of(domain).used, sites).tolist() for domain in counts.domains],
        "scores": scores,
        "sigmas": None if counts.spread is None else list(counts.sigmas().values()),
    } | ({} if sites == EXPERTS else {"units": sites.noun, "column": column_width(counts.experts)})

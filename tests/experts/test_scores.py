"""Scores from counts, against their formulas read off raw token rows."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import (
    Marker,
    RoutingCounts,
    activation_share,
    all_methods,
    best_experts,
    count_routing,
    exposure,
)

from ..conftest import FEW_ROWS
from .conftest import EXPERTS, LAYERS, K, random_pass

SEEDS = st.integers(0, 10**6)
PASSES = settings(deadline=None, max_examples=25)
MARKERS = (Marker("a", 1, 1.0), Marker("b", 2, -0.5))
QUANTILE = 0.4


class Raw:
    """One domain's tokens in the prompt phase, as NumPy arrays a formula can be read off."""

    def __init__(self, rows, domain):
        own = [row for row in rows if row.domain == domain and not row.generated]
        self.document = np.array([row.document for row in own])
        self.token = np.array([row.token for row in own])
        saliency = np.array([row.saliency for row in own], dtype=np.float32)
        self.salient = saliency > np.quantile(saliency, QUANTILE)
        experts = np.array([row.experts for row in own])  # [tokens, layers, k]
        self.uses = np.stack([(experts == e).any(-1) for e in range(EXPERTS)], -1)
        weights = np.array([row.weights for row in own])
        self.gates = np.stack([(weights * (experts == e)).sum(-1) for e in range(EXPERTS)], -1)

    def document_mean(self, values):
        means = [values[self.document == d].mean(0) for d in np.unique(self.document)]
        return np.mean(means, axis=0)

    def npmi(self, marker):
        result = np.full((LAYERS, EXPERTS), -1.0)
        at = self.token == marker.token
        for cell in np.ndindex(LAYERS, EXPERTS):
            together = (self.uses[(slice(None), *cell)] & at).mean()
            if together == 1:
                result[cell] = 0.0
            elif together:
                apart = self.uses[(slice(None), *cell)].mean() * at.mean()
                result[cell] = math.log2(together / apart) / -math.log2(together)
        return result


def formulas(own, others):
    uses, salient = own.uses.mean(0), own.uses[own.salient].sum(0)
    total = own.uses.sum(0)
    with np.errstate(invalid="ignore"):
        share = np.where(total > 0, salient / total, 0.5)
    return {
        "dsmoe": uses * (share - (1 - share)),
        "dsmoe-code": (salient - (total - salient)) * (total / total.sum()),
        "frequency": uses,
        "preference": np.where(total > 0, share - (1 - share), 0.0),
        "risk-difference": uses - np.concatenate([one.uses for one in others]).mean(0),
        "npmi": sum(marker.coefficient * own.npmi(marker) for marker in MARKERS),
        "esft-gate": own.document_mean(own.gates),
        "esft-token": own.document_mean(own.uses / K),
    }


@PASSES
@given(SEEDS)
def test_every_score_equals_its_formula(seed):
    with random_pass(seed) as (seen, rows):
        counts = count_routing(seen, QUANTILE, MARKERS).in_phase("prompt")
        raw = {domain: Raw(rows, domain) for domain in seen.domains}
        own = raw["one"]
        expected = formulas(own, [raw["two"], raw["three"]])
        for name, values in expected.items():
            score = all_methods()[name].score
            if name == "npmi" and not all((own.token == m.token).any() for m in MARKERS):
                with pytest.raises(ValueError, match=r"the marker '.' is not in the text of 'one'"):
                    score(counts, "one")
                continue
            np.testing.assert_allclose(score(counts, "one"), values, atol=1e-6, err_msg=name)


@PASSES
@given(SEEDS)
def test_exposure_and_shares_of_activations(seed):
    with random_pass(seed) as (seen, rows):
        counts = count_routing(seen).in_phase("prompt")
        raw = [Raw(rows, domain).uses for domain in seen.domains]
        np.testing.assert_allclose(exposure(counts), np.concatenate(raw).mean(0))
        chosen = best_experts(exposure(counts) + 0.01, counts.layers, 3)
        places = [(counts.layers.index(one.layer), one.expert) for one in chosen]
        hits = sum(uses[(slice(None), *place)].sum() for uses in raw for place in places)
        total = sum(uses.sum() for uses in raw)
        assert activation_share(counts, chosen) == pytest.approx(hits / total)


@PASSES
@given(SEEDS)
def test_a_risk_difference_only_moves_use_around(seed):
    with random_pass(seed) as (seen, _):
        scores = all_methods()["risk-difference"].score(count_routing(seen), "two")
        np.testing.assert_allclose(scores.sum(-1), 0, atol=1e-12)


def test_what_was_not_seen_is_refused():
    methods = all_methods()
    with random_pass(0, saliency=False) as (seen, _):
        counts = count_routing(seen).in_phase("prompt")
        for name in ("dsmoe", "dsmoe-code", "preference"):
            with pytest.raises(ValueError, match="needs token saliency"):
                methods[name].score(counts, "one")
        with pytest.raises(ValueError, match="needs contributions"):
            methods["easy-ep"].score(counts, "one")
        with pytest.raises(ValueError, match="reap needs contributions"):
            methods["reap"].score(counts, "one")
        with pytest.raises(ValueError, match="needs the influence of experts"):
            methods["influence"].score(counts, "one")
        with pytest.raises(ValueError, match="needs marker tokens"):
            methods["npmi"].score(counts, "one")
        with pytest.raises(ValueError, match="no text of domain 'law'"):
            methods["frequency"].score(counts, "law")


def test_influence_is_centred_and_net_of_what_the_others_lose():
    with random_pass(1) as (seen, _):
        counts = count_routing(seen)
    generator = np.random.default_rng(0)
    tables = generator.normal(size=(3, 2, 2, 5))
    with_them = replace(counts, influence=tables)
    methods, at = all_methods(), counts.domains.index("two")
    gain = tables[at, 0]
    got = methods["influence"].score(with_them, "two")
    np.testing.assert_allclose(got, gain - gain.mean(1)[:, None])
    net = gain + np.delete(tables[:, 1], at, 0).mean(0)
    got = methods["influence-net"].score(with_them, "two")
    np.testing.assert_allclose(got, net - net.mean(1)[:, None])
    with pytest.raises(ValueError, match="cannot be resampled"):
        with_them.resampled(counts.weight)


# Heights of bars in the authors' own figure, scripts/routing_olmoe_v2.jpg at 357454f, by ruler.
READ_OFF = (
    ("github", 0, 21, 0.636), ("arxiv", 0, 0, 0.975), ("wikipedia", 0, 11, 0.78),
    ("wikipedia", 1, 27, 0.85), ("book", 0, 28, 0.45), ("c4", 0, 41, 0.37),
    ("arxiv", 1, 17, 0.785), ("github", 1, 17, 0.775), ("arxiv", 2, 17, 0.94),
)  # fmt: skip


@pytest.mark.parametrize(("model", "experts", "k"), [("olmoe", 64, 8), ("mistral", 8, 2)])
def test_frequency_is_the_published_domain_specialisation(model, experts, k):
    """OLMoE (arXiv 2409.02060): N_(e,D) / N_D of real counts, in layers 0, 7 and 15."""
    file = FEW_ROWS / "olmoe_routing" / "expert_counts_by_domain.json"
    read = json.loads(file.read_text())[model]["expert_counts"]
    domains = ("github", "arxiv", "c4", "book", "wikipedia")
    used = np.array([[[layer[str(e)] for e in range(experts)] for layer in read[d]]
                     for d in domains])  # fmt: skip
    tokens = used.sum(-1)[:, 0] // k
    counts = RoutingCounts(
        domains=domains, layers=(0, 7, 15), top_k=k, markers=(), domain=np.arange(5),
        generated=np.zeros(5, dtype=bool), weight=np.ones(5),
        tokens=np.stack([tokens, 0 * tokens], -1),
        used=np.stack([used, 0 * used], 1), gate=np.zeros(used.shape), contribution=None,
        marker_tokens=np.zeros((5, 0)), marked=np.zeros((5, 0, 3, experts)), has_saliency=False,
    )  # fmt: skip
    shares = {d: all_methods()["frequency"].score(counts, d) for d in domains}
    for values in shares.values():  # the grey line of their figures: 12.5 % and 25 %
        np.testing.assert_allclose(values.mean(-1), k / experts)
    if model == "olmoe":
        for domain, layer, expert, height in READ_OFF:
            assert shares[domain][layer, expert] == pytest.approx(height, abs=0.025)
    else:  # Mixtral: no expert far from the line
        assert max(v.max() for v in shares.values()) < 0.5


def test_lape_is_the_published_choice(tmp_path):
    """Its code, arXiv 2402.16438: drop by the largest rate, rank by entropy, give to domains."""
    generator = np.random.default_rng(5)
    with random_pass(4) as (seen, _):
        counts = count_routing(seen).in_phase("prompt")
    active = generator.integers(0, 3, (len(counts.domain), LAYERS, EXPERTS)).astype(np.int32)
    counts = replace(counts, active=active)
    names = counts.domains
    rates = np.array([counts.of(name).active / counts.of(name).tokens for name in names])
    bar = np.quantile(rates, 0.95)
    for index, name in enumerate(names):
        scores = all_methods()["lape"].score(counts, name)
        for place in np.ndindex(LAYERS, EXPERTS):
            rate = rates[(slice(None), *place)]
            entropy = -sum(p * math.log(p) for p in rate / rate.sum() if p > 0)
            expected = math.log(len(names)) - entropy if rate[index] >= bar else 0
            assert scores[place] == pytest.approx(expected, abs=1e-12)
        if not (rates[index] >= bar).any():
            assert not scores.any()
    used = replace(counts, active=None)
    domain = names[0]
    assert all_methods()["lape"].score(used, domain).shape == (LAYERS, EXPERTS)

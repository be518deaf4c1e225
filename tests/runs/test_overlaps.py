"""Overlap over resamples: by hand, against the stability of the existence test, and the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.experts import RoutingCounts, choose_experts, get_method, resample_documents
from dsmoe_eval.runs.overlaps import overlap, resampled_choices
from dsmoe_eval.stats import DocumentCounts, top_stability
from dsmoe_eval.steering import ChosenExpert

UNITS = 6


def chosen(*pairs):
    return tuple(ChosenExpert(layer=a, expert=b, score=1.0) for a, b in pairs)


def made(seed=0, documents=12, layers=2):
    """Counts of two domains whose documents differ."""
    rng = np.random.default_rng(seed)
    domain = np.repeat([0, 1], documents)
    tokens = rng.integers(20, 60, 2 * documents)
    rates = rng.beta(2, 6, (2 * documents, layers, UNITS))
    used = rng.binomial(tokens[:, None, None], rates).astype(np.int32)
    rows = len(domain)
    empty = np.zeros((rows, 0))
    return RoutingCounts(
        domains=("one", "two"), layers=tuple(range(layers)), top_k=1, markers=(), domain=domain,
        generated=np.zeros(rows, dtype=bool), weight=np.ones(rows),
        tokens=np.stack([tokens, np.zeros_like(tokens)], 1),
        used=np.stack([used, np.zeros_like(used)], 1), gate=used.astype(np.float32),
        contribution=None, marker_tokens=empty.astype(np.int64),
        marked=np.zeros((rows, 0, layers, UNITS), np.int32), has_saliency=False,
    )  # fmt: skip


def contrast(counts, size=3):
    return choose_experts(get_method("risk-difference"), counts, "one", size)


def test_by_hand():
    full = chosen((0, 0), (0, 1), (1, 2))
    resamples = [full, chosen((0, 0), (0, 3), (1, 2)), None, chosen((0, 4), (0, 5), (1, 3))]
    found = overlap(resamples, full, UNITS)
    assert (found.experts, found.named) == (3, 3)
    # Pairs: 2 of 4 shared, none, none; with the full text: all, 2 of 4, none.
    assert found.between == pytest.approx(0.5 / 3)
    assert found.with_full == pytest.approx(1.5 / 3)
    # Two of 6 in one layer and one of 6 in the other, blindly: P(k shared) by hand.
    layer = np.array([6 / 15, 8 / 15, 1 / 15])
    k = np.convolve(layer, [5 / 6, 1 / 6])
    assert found.by_chance == pytest.approx(sum(p * n / (6 - n) for n, p in enumerate(k)))


def test_a_deactivated_expert_is_another_choice():
    full = chosen((0, 0), (0, 1))
    turned = (full[0], full[1].model_copy(update={"activate": False}))
    assert overlap([turned], full, UNITS).with_full == pytest.approx(1 / 3)


def test_resamples_of_equal_weights_agree_wholly():
    counts = made()
    same = [counts.resampled(np.full(len(counts.domain), w)) for w in (1.0, 1.0, 2.0)]
    found = overlap(resampled_choices(same, contrast), contrast(counts), UNITS)
    assert found.between == found.with_full == 1
    assert 0 < found.by_chance < 0.5


def test_a_resample_that_cannot_name_as_many_is_counted():
    counts, method = made(4), get_method("risk-difference")
    size = int((method.score(counts, "one") > 0).sum())
    single = [np.isin(np.arange(24), (k, j)) * 1.0 for k in range(12) for j in range(12, 24)]
    fewer = [
        again
        for again in map(counts.resampled, single)
        if (method.score(again, "one") > 0).sum() < size
    ]
    choices = resampled_choices([counts, fewer[0]], lambda of: contrast(of, size))
    found = overlap(choices, contrast(counts, size), UNITS)
    assert (found.named, found.between, found.with_full) == (1, None, 1)
    assert found.by_chance is None
    assert overlap([None, None], contrast(counts), UNITS).with_full is None


def test_the_existence_test_finds_the_same_stability():
    """Another code for the same question: top units by rate difference over pairs of resamples."""
    counts, number = made(2), 40
    drawn = [resample_documents(counts, k, 0) for k in range(1, 2 * number + 1)]
    ours = overlap(resampled_choices(drawn, contrast), contrast(counts), UNITS)
    documents = DocumentCounts(
        counts.used.sum(1).reshape(len(counts.domain), -1).astype(np.int64),
        counts.tokens.sum(1),
        counts.domain,
    )
    theirs = top_stability(documents, np.array([3, 3]), np.random.default_rng(1), 2000)
    assert 0.2 < ours.between < 0.95
    assert ours.between == pytest.approx(theirs[0], abs=0.05)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["stability", "lab-poly", "--suite", "lab", "--domain", "math", "--limit", "6"]
    common += ["--method", "risk-difference", "--experts", "4", "--device", "cpu"]
    done = CliRunner().invoke(main, [*common, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["documents"], found["experts"], found["named"]) == (6, 4, 5)
    assert 0 < found["by_chance"] < found["between"] <= 1
    shared = [one["resamples"] for one in found["chosen"]]
    assert len(shared) == 4
    assert max(shared) <= 5
    text = CliRunner().invoke(main, common)
    assert "4 experts of math by risk-difference, from 6 documents; 5 of 5 resamples" in text.stdout
    refused = CliRunner().invoke(main, [*common[:5], "alchemy"])
    assert refused.exit_code == 3
    assert "has no identification text of 'alchemy'" in refused.output

"""Outcomes of items and their influences, against autograd and textbook formulas."""

import numpy as np
import pytest
import torch

from dsmoe_eval.experts.influence import Form, ScoredText
from dsmoe_eval.experts.influence_items import (
    InfluenceItems,
    OutcomeItem,
    domain_tables,
    measure_influence,
)
from dsmoe_eval.steering import find_routers

from ..conftest import make_model
from .by_force import assert_near, by_autograd, drawn, likelihood, prepared, shifted, zeros


def question(model, *, rights=(1,), scales=(), domain="one", cluster="", size=3):
    texts = drawn(model, *[(5 + n, 4) for n in range(size)])
    return OutcomeItem(domain, tuple(texts), rights, scales, cluster)


def log_probability(item, values):
    scaled = values * torch.tensor(item.scales or [1.0] * len(values))
    return scaled[list(item.rights)].logsumexp(0) - scaled.logsumexp(0)


@pytest.mark.parametrize(("rights", "scales"), [((1,), ()), ((0, 2), (0.2, 0.5, 0.1))])
def test_the_influence_on_a_question_equals_autograd(tmp_path, rights, scales):
    model = prepared(make_model("qwen3_moe"))
    item = question(model, rights=rights, scales=scales)
    seen = measure_influence(model, [item], tmp_path, form=Form())
    shift = zeros(model).requires_grad_()
    with shifted(model, shift):
        outcome = log_probability(item, torch.stack([likelihood(model, t) for t in item.texts]))
        (expected,) = torch.autograd.grad(outcome, shift)
    assert float(seen.outcome[0]) == pytest.approx(float(outcome.detach()), abs=1e-5)
    assert_near(torch.from_numpy(seen.influence[0]), expected, 1e-5)


def test_curvature_is_that_of_the_divergence_from_the_unshifted_model(tmp_path):
    """The Fisher information, from probabilities at finite shifts."""
    model = prepared(make_model("qwen3_moe").double())
    model.set_experts_implementation("eager")
    item = question(model)
    seen = measure_influence(model, [item], tmp_path, form=Form())
    with torch.no_grad():
        base = torch.stack([likelihood(model, t) for t in item.texts]).log_softmax(0)
        for flat in np.abs(seen.curvature[0]).argsort(axis=None)[-3:].tolist():
            step, total = zeros(model), 0.0
            for size in (1e-2, -1e-2):
                step.view(-1)[flat] = size
                with shifted(model, step):
                    moved = torch.stack([likelihood(model, t) for t in item.texts]).log_softmax(0)
                total += float((base.exp() * (base - moved)).sum())
            assert seen.curvature[0].flat[flat] == pytest.approx(-total / 1e-4, rel=2e-2)


def test_the_influence_on_text_is_that_of_its_mean_log_likelihood(tmp_path):
    model = prepared(make_model("olmoe"))
    texts = drawn(model, (6, 1), (9, 1))
    items = [OutcomeItem("one", (t,), scales=(1 / t.scored,)) for t in texts]
    seen = measure_influence(model, items, tmp_path, form=Form())
    for at, text in enumerate(texts):
        value, gradient = by_autograd(model, text)
        assert float(seen.outcome[at]) == pytest.approx(float(value) / text.scored, rel=1e-5)
        assert_near(torch.from_numpy(seen.influence[at]), gradient / text.scored, 1e-5)
        assert_near(torch.from_numpy(seen.curvature[at]), -(gradient**2) / text.scored, 1e-4)


def test_a_finished_pass_is_read_and_a_changed_one_refused(tmp_path, monkeypatch):
    model = prepared(make_model("olmoe"))
    items = [question(model), question(model, size=2)]
    steps = (0.5,) * len(find_routers(model))
    first = measure_influence(model, items, tmp_path, form=Form(steps=steps), identity="a")
    with monkeypatch.context() as patch:
        patch.setattr(
            "dsmoe_eval.experts.influence.Influence.__call__", lambda *_: pytest.fail("again")
        )
        again = measure_influence(model, items, tmp_path, form=Form(steps=steps), identity="a")
    assert np.array_equal(first.influence, again.influence)
    measure_influence(model, items, tmp_path, form=Form(steps=steps), identity="b")
    measure_influence(model, items, tmp_path, form=Form(), identity="b")
    assert len(list(tmp_path.iterdir())) == 3


def test_large_tables_are_on_disk_and_equal_those_in_memory(tmp_path, monkeypatch):
    model = prepared(make_model("olmoe"))
    items = [question(model), question(model, size=2)]
    small = measure_influence(model, items, tmp_path, form=Form())
    files = set(tmp_path.rglob("*"))
    monkeypatch.setattr("dsmoe_eval.experts.influence_items._IN_MEMORY", 0)
    large = measure_influence(model, items, tmp_path, form=Form())
    for one, other in ((small, large), (small.of("one"), large.of("one"))):
        names = ("influence", "curvature") if one is small else ("mean", "error", "curvature")
        for name in names:
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert (type(small.influence), type(large.influence)) == (np.ndarray, np.memmap)
    assert set(tmp_path.rglob("*")) == files


def test_a_file_that_was_changed_is_refused(tmp_path):
    model = prepared(make_model("olmoe"))
    items = [question(model)]
    measure_influence(model, items, tmp_path, form=Form())
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(ValueError, match="was changed after it was written"):
        measure_influence(model, items, tmp_path, form=Form())


def made_up(clusters, domains):
    generator = np.random.default_rng(0)
    text = ScoredText((1, 2), 1)
    items = tuple(
        OutcomeItem(d, (text,), cluster=c) for c, d in zip(clusters, domains, strict=True)
    )
    values = generator.normal(size=(2, len(items), 2, 3)).astype(np.float32)
    return InfluenceItems(items, (0, 2), np.arange(len(items)) * 1.0, values[0], -(values[1] ** 2))


def test_standard_errors_are_those_of_clusters():
    seen = made_up(["a", "a", "b", "", "", "c"], ["one"] * 5 + ["two"])
    effect = seen.of("one")
    assert (effect.items, effect.clusters, effect.outcome) == (5, 4, 2.0)
    np.testing.assert_allclose(effect.mean, seen.influence[:5].mean(0), rtol=1e-6)
    # A ratio estimator's: linearised sums by cluster.
    sums = np.stack([(seen.influence[r] - effect.mean).sum(0) for r in ([0, 1], [2], [3], [4])])
    expected = np.sqrt(4 / 3 * (sums**2).sum(0)) / 5
    np.testing.assert_allclose(effect.error, expected, rtol=1e-6)
    np.testing.assert_allclose(effect.t, effect.mean / expected, rtol=1e-6)
    whole = made_up(["", "", "", ""], ["one"] * 4)
    plain = whole.influence.std(0, ddof=1) / 2
    np.testing.assert_allclose(whole.of("one").error, plain, rtol=1e-5)
    assert np.isinf(seen.of("two").error).all()
    with pytest.raises(ValueError, match="no item of domain 'three'"):
        seen.of("three")


def test_tables_of_domains_hold_gain_and_damage_by_a_step():
    seen = made_up([""] * 5, ["one"] * 3 + ["two"] * 2)
    gains, kept = {"one": [0, 1], "two": [3, 4]}, {"one": [2], "two": [3, 4]}
    tables = domain_tables(seen, gains, kept, (0.5, 2.0))
    np.testing.assert_allclose(tables[0, 0], seen.influence[:2].mean(0), rtol=1e-6)
    change = seen.influence[2] + np.array([[0.25], [1.0]]) * seen.curvature[2]
    np.testing.assert_allclose(tables[0, 1], change, rtol=1e-6)

"""Saliency and routing in one pass, against one text at a time; what is kept and gone on with."""

import copy

import numpy as np
import pytest
import torch

from dsmoe_eval.experts import Shape, count_routing, encode_documents, observe, observe_routed
from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.steering import capture_routing, find_routers

from .test_saliency import one_by_one

TEXTS = {"one": ["abcde", "^bcd", "zyxwvut"], "two": ["qq", "aabb^cc"]}


@pytest.fixture
def documents(letters):
    return encode_documents(letters, TEXTS)


def columns(seen):
    batches = list(seen.read())
    names = [name for name in type(batches[0]).__slots__ if getattr(batches[0], name) is not None]
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


def test_a_row_keeps_label_and_routing_of_its_token(model, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.experts.observations.token_budget", lambda _: 14)
    seen = observe(model, documents, tmp_path, saliency_model=model)
    assert seen.batches == 3
    found = columns(seen)
    assert len(found["document"]) == sum(sum(one.kept) for one in documents)
    for index, one in enumerate(documents):
        kept = np.array(one.kept)
        own = (found["document"] == index).numpy()
        saliency, experts, weights = one_by_one(model, one.tokens)
        assert found["token"][own].tolist() == np.array(one.tokens)[kept].tolist()
        np.testing.assert_allclose(found["saliency"][own], saliency[kept], rtol=2e-4, atol=1e-7)
        np.testing.assert_array_equal(found["experts"][own], experts[kept])
        np.testing.assert_allclose(found["weights"][own], weights[kept], rtol=1e-4)
        assert not found["generated"][own].any()


def test_the_model_is_left_trainable_and_without_gradients(model, documents, tmp_path):
    model.train()
    before = [parameter.requires_grad for parameter in model.parameters()]
    observe(model, documents, tmp_path, saliency_model=model)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_interrupted_pass_goes_on_where_it_stopped(model, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.experts.observations.token_budget", lambda _: 1)
    monkeypatch.setattr("dsmoe_eval.experts.observations.copies", lambda model: [model])
    whole = columns(observe(model, documents, tmp_path / "whole", saliency_model=model))
    done = []

    def stop_at_three(_count):
        done.append(_count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(model, documents, tmp_path / "two", saliency_model=model, advance=stop_at_three)
    calls = []

    class Counted(Saliency):
        def __call__(self, *args):
            calls.append(1)
            return super().__call__(*args)

    monkeypatch.setattr("dsmoe_eval.experts.observations.Saliency", Counted)
    again = observe(model, documents, tmp_path / "two", saliency_model=model)
    assert len(calls) == 2
    for name, values in columns(again).items():
        assert torch.equal(values, whole[name])
    observe(model, documents, tmp_path / "two", saliency_model=model)
    assert len(calls) == 2
    observe(model, documents, tmp_path / "two", saliency_model=model, identity="another")
    assert len(calls) == 7


def test_saliency_may_come_from_another_model(model, documents, tmp_path):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(0.5)
    own = columns(observe(model, documents, tmp_path, saliency_model=model, identity="own"))
    two = columns(observe(model, documents, tmp_path, saliency_model=other, identity="two"))
    assert torch.equal(own["experts"], two["experts"])
    assert not torch.allclose(own["saliency"], two["saliency"])
    expected = columns(observe(other, documents, tmp_path, saliency_model=other, identity="three"))
    torch.testing.assert_close(two["saliency"], expected["saliency"])


def test_without_saliency_there_is_no_backward_pass(model, documents, tmp_path):
    seen = observe(model, documents, tmp_path, saliency_model=None)
    assert not seen.has_saliency
    assert set(columns(seen)) == {"document", "generated", "token", "experts", "weights"}
    assert not count_routing(seen).has_saliency


def test_another_engines_routing_gives_the_same_counts(model, documents, tmp_path):
    routers = find_routers(model)

    def routed(batch):
        for one in batch:
            with capture_routing(routers) as routing, torch.no_grad():
                model(input_ids=torch.tensor([one.tokens]))
            yield routing.indices(), routing.weights()

    shape = Shape(tuple(r.layer for r in routers), routers[0].experts, routers[0].top_k)
    ours = count_routing(observe(model, documents, tmp_path, saliency_model=model))
    theirs = count_routing(
        observe_routed(
            documents, routed, shape, tmp_path, saliency_model=model, identity="another engine"
        )
    )
    np.testing.assert_array_equal(ours.used, theirs.used)
    np.testing.assert_allclose(ours.gate, theirs.gate, rtol=1e-4)
    with pytest.raises(ValueError, match="routing of 1 tokens for a text of 7"):
        observe_routed(
            documents,
            lambda batch: [(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)) for _ in batch],
            shape, tmp_path, saliency_model=None, identity="short",
        )  # fmt: skip


def test_a_model_spread_over_devices_gives_the_same_rows(documents, tmp_path):
    from accelerate import cpu_offload

    from tests.conftest import make_model

    whole = columns(observe(*(m := (make_model("qwen3_moe"), documents)), tmp_path / "a",
                            saliency_model=m[0], contributions=True))  # fmt: skip
    spread = cpu_offload(make_model("qwen3_moe"), execution_device="cpu")
    rows = columns(
        observe(spread, documents, tmp_path / "b", saliency_model=spread, contributions=True)
    )
    for name, values in rows.items():
        torch.testing.assert_close(values, whole[name])

"""Steering on real router classes: exact, reversible, and never silent."""

import copy
import sys

import pytest
import torch

from dsmoe_eval.steering import (
    Measured,
    Steering,
    SteeringError,
    capture_routing,
    find_routers,
    steer,
)

from ..conftest import make_model


@torch.no_grad()
def run(model, ids, mask):
    routers = find_routers(model)
    with capture_routing(routers) as routing:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    kept = mask.flatten().bool()
    return logits.flatten(0, 1)[kept], routing.indices()[kept], routing.weights()[kept]


@pytest.mark.parametrize("kind", ["bias", "reweight"])
def test_strength_zero_is_bit_identical(model, batch, make_profile, kind):
    before = run(model, *batch)
    with steer(model, make_profile(model, [(0, 3), (2, 5)], kind, 0.0)):
        during = run(model, *batch)
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))


@pytest.mark.parametrize("kind", ["bias", "reweight"])
def test_the_model_is_left_as_it_was_found(model, batch, make_profile, kind):
    before, classes = run(model, *batch), [type(module) for module in model.modules()]
    keys = list(model.state_dict())
    with steer(model, make_profile(model, [(0, 3), (2, 5)], kind, 30.0)):
        assert not torch.equal(run(model, *batch)[0], before[0])
    after = run(model, *batch)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == keys


def test_the_model_is_restored_when_the_block_raises(model, batch, make_profile):
    before = run(model, *batch)[0]
    with pytest.raises(ZeroDivisionError), steer(model, make_profile(model, [(0, 3)], "bias", 9)):
        raise ZeroDivisionError
    assert torch.equal(run(model, *batch)[0], before)


def test_a_strong_bias_selects_the_expert_for_every_token(model, batch, make_profile):
    with steer(model, make_profile(model, [(2, 5)], "bias", 1e12)):
        indices = run(model, *batch)[1]
    assert (indices[:, -1] == 5).any(-1).all()
    assert indices.shape[-1] == 2


def test_reweight_keeps_selection_and_sum_in_the_first_steered_layer(model, batch, make_profile):
    _, indices, weights = run(model, *batch)
    expert = int(indices[0, 0, 0])
    with steer(model, make_profile(model, [(0, expert)], "reweight", 9.0)):
        _, steered, reweighted = run(model, *batch)
    assert torch.equal(indices[:, 0], steered[:, 0])
    torch.testing.assert_close(weights[:, 0].sum(-1), reweighted[:, 0].sum(-1))
    assert not torch.equal(weights[:, 0], reweighted[:, 0])


@pytest.mark.parametrize("kind", ["bias", "reweight"])
def test_steered_equals_an_independent_computation_of_the_experts_output(
    model, batch, make_profile, kind
):
    """A second implementation: the router's weights, its scoring by hand, the experts' module."""
    ids, mask = batch
    router = find_routers(model)[-1]
    seen = {}
    hook = router.consumer.register_forward_hook(
        lambda _m, args, out: seen.update(steered=(args[0].clone(), out.clone()))
    )
    expert, alpha = 5, 4.0
    with torch.no_grad(), steer(model, make_profile(model, [(router.layer, expert)], kind, 3.0)):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    hook.remove()

    x, got = seen["steered"]
    logits = torch.nn.functional.linear(
        x, router.module.weight, getattr(router.module, "bias", None)
    )
    factor = torch.ones(router.experts)
    factor[expert] = alpha
    weights, indices = by_hand(router.module, logits + (factor.log() if kind == "bias" else 0))
    if kind == "reweight":
        former = weights.sum(-1, keepdim=True)
        weights = weights * factor[indices]
        weights = weights * former / weights.sum(-1, keepdim=True)
    with torch.no_grad():
        expected = router.consumer(x, indices, weights)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def by_hand(router, logits):
    """Weights and indices of each router class from its logits."""
    if "Phimoe" in type(router).__name__:
        from transformers.models.phimoe.modeling_phimoe import sparsemixer

        jitter = router.router_jitter_noise
        return sparsemixer(logits, jitter_eps=jitter, training=False, top_k=router.top_k)
    scores = logits.softmax(-1)
    correction = getattr(getattr(router, "moe_statics", None), "e_score_correction_bias", 0.0)
    indices = (scores + correction).topk(router.top_k).indices
    weights = scores.gather(-1, indices)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, indices


def test_generation_with_a_cache_equals_generation_without(model, batch, make_profile):
    ids = batch[0][:1]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with steer(model, make_profile(model, [(0, 3), (2, 5)], "bias", 20.0)):
        cached = model.generate(ids, use_cache=True, **settings)
        plain = model.generate(ids, use_cache=False, **settings)
    assert torch.equal(cached, plain)


def test_steering_twice_is_refused_and_leaves_the_first(model, batch, make_profile):
    profile = make_profile(model, [(0, 3)], "bias", 9.0)
    with steer(model, profile):
        steered = run(model, *batch)[0]
        with pytest.raises(SteeringError, match="steered already"), steer(model, profile):
            pass
        # Also when the second profile fits in one layer and clashes in another.
        other = make_profile(model, [(2, 1), (0, 3)], "bias", 9.0)
        with pytest.raises(SteeringError, match="steered already"):
            steer(model, other).install()
        assert torch.equal(run(model, *batch)[0], steered)


def test_install_and_remove_by_hand(model, batch, make_profile):
    before = run(model, *batch)[0]
    steering = steer(model, make_profile(model, [(0, 3)], "bias", 9.0)).install()
    assert not torch.equal(run(model, *batch)[0], before)
    steering.remove()
    steering.remove()
    assert torch.equal(run(model, *batch)[0], before)


def test_routers_are_tried_out_once_for_all_strengths(model, batch, make_profile, monkeypatch):
    module = sys.modules["dsmoe_eval.steering.steer"]
    tried, honest = [], module.describe_scoring
    monkeypatch.setattr(module, "describe_scoring", lambda r: tried.append(r.layer) or honest(r))
    steering = steer(model, make_profile(model, [(0, 3), (2, 5)], "bias", 9.0))
    null, before = steering.with_strength(0.0), run(model, *batch)[0]
    for _ in range(2):
        with steering:
            assert not torch.equal(run(model, *batch)[0], before)
            with pytest.raises(SteeringError, match="steered already"):
                null.install()
        with null:
            assert torch.equal(run(model, *batch)[0], before)
        assert torch.equal(run(model, *batch)[0], before)
    assert tried == [0, 2]
    assert steering.profile.intervention.strength == 9.0


def test_routers_are_tried_out_once_for_all_profiles_of_a_run(
    model, batch, make_profile, monkeypatch
):
    module = sys.modules["dsmoe_eval.steering.steer"]
    calls, measure = [], module.describe_scoring
    monkeypatch.setattr(module, "describe_scoring", lambda one: calls.append(one) or measure(one))
    measured = Measured()
    for experts, kind in ((0, 1), "bias"), ((2,), "bias"), ((3,), "reweight"):
        profile = make_profile(model, [(layer, e) for layer in (0, 2) for e in experts], kind, 4.0)
        with steer(model, profile):
            expected = run(model, *batch)
        alone = len(calls)
        with Steering(model, profile, measured):
            assert all(map(torch.equal, run(model, *batch), expected))
        assert len(calls) - alone == (2 if experts == (0, 1) else 0)
    model.bfloat16()
    alone = len(calls)
    with Steering(model, profile, measured):
        assert len(calls) - alone == 2


def test_a_profile_for_another_model_is_refused(model, make_profile):
    profile = make_profile(model, [(0, 3)])
    other = profile.model_copy(update={"model": profile.model.model_copy(update={"experts": 16})})
    with pytest.raises(SteeringError, match="is for 'tiny'"):
        steer(model, other)


def test_a_profile_for_another_model_of_the_same_shape_is_refused(model, make_profile):
    profile = make_profile(model, [(0, 3)])
    with torch.no_grad():
        find_routers(model)[0].module.weight[0, 0] += 0.5
    with pytest.raises(SteeringError, match="same shape but other weights"):
        steer(model, profile)


def test_a_profile_fits_its_model_in_bfloat16_too(model, batch, make_profile):
    profile = make_profile(model, [(0, 3)], "bias", 9.0)
    model.to(torch.bfloat16)
    before = run(model, *batch)[0]
    with steer(model, profile):
        assert not torch.equal(run(model, *batch)[0], before)
    with steer(model, profile.with_strength(0.0)):
        assert torch.equal(run(model, *batch)[0], before)


def test_a_replaced_forward_is_refused_not_ignored(model, make_profile):
    router = find_routers(model)[0].module
    router.forward = copy.copy(router.forward)
    with pytest.raises(SteeringError, match="replaced its forward"):
        steer(model, make_profile(model, [(0, 3)])).install()


def test_a_dense_model_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    with pytest.raises(SteeringError, match="no router"):
        find_routers(LlamaForCausalLM(config))


def test_a_hook_on_the_returned_logits_would_be_a_silent_no_op(model, batch):
    """Why the router patch exists: the published way changes nothing since transformers 5."""
    before = run(model, *batch)[0]
    router = find_routers(model)[0].module
    hook = router.register_forward_hook(lambda _m, _a, out: (out[0] + 50.0, *out[1:]))
    after = run(model, *batch)[0]
    hook.remove()
    assert torch.equal(before, after)


def mxfp4(model):
    """transformers' own MXFP4 block, with its GPU kernels played by plain torch.

    The block reads the router's weight and bias and never calls the router.
    """
    from types import MethodType, SimpleNamespace

    from transformers.integrations import mxfp4 as integration

    class Mxfp4GptOssExperts(torch.nn.Module):
        def __init__(self, experts):
            super().__init__()
            self.experts = experts

        def forward(self, hidden, _routing_data, gather_idx, scatter_idx):
            return self.experts(hidden, scatter_idx, gather_idx)

        forward_routed = forward  # its name in newer transformers

    def routing(logits, top_k):
        values, indices = logits.topk(top_k)
        return None, values.softmax(-1), indices

    integration.triton_kernels_hub = SimpleNamespace(routing=SimpleNamespace(routing=routing))
    for layer in model.model.layers:
        layer.mlp.experts = Mxfp4GptOssExperts(layer.mlp.experts)
        if hasattr(integration, "Mxfp4GptOssMLP"):
            layer.mlp = integration.Mxfp4GptOssMLP(layer.mlp.router, layer.mlp.experts)
        else:
            layer.mlp.forward = MethodType(integration.mlp_forward, layer.mlp)
    return model


def test_fused_mxfp4_kernels_are_steered_by_the_routers_own_bias(batch, make_profile):
    from dsmoe_eval.steering import probe

    model = make_model("gpt_oss")
    profile = make_profile(model, [(0, 3), (2, 5)], "bias", 20.0)
    ids, mask = batch
    with torch.no_grad(), steer(model, profile):
        expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    fused = mxfp4(copy.deepcopy(model))
    saved = {key: value.clone() for key, value in fused.state_dict().items()}
    with torch.no_grad(), steer(fused, profile):
        got = fused(input_ids=ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(saved[key], value) for key, value in fused.state_dict().items())
    with steer(fused, profile), pytest.raises(SteeringError, match="steered already"):
        steer(fused, profile).install()
    report = probe(fused, profile, ids, mask)
    assert report.logit_max_change > 0
    assert report.selection_changed is None
    for kind in ("reweight", "amplify", "force"):
        with pytest.raises(SteeringError, match=f"{kind} is not possible here: Mxfp4"):
            steer(fused, make_profile(fused, [(0, 3)], kind, 1.0)).install()


def test_unknown_fused_kernels_stop_the_run(batch, make_profile):
    """As above under a name that the table does not have: no silent no-op."""
    from dsmoe_eval.steering import probe

    fused = mxfp4(make_model("gpt_oss"))
    for layer in fused.model.layers:
        type(layer.mlp.experts).__name__ = "SomeNewKernels"
    with pytest.raises(SteeringError, match=r"the experts did not (receive|run)"):
        probe(fused, make_profile(fused, [(0, 3)], "bias", 20.0), *batch)


def test_two_profiles_on_different_layers_do_not_compose_by_accident(model, batch, make_profile):
    """They would be two edits of one run: refused, since a run is named by one profile."""
    with (
        steer(model, make_profile(model, [(0, 3)], "bias", 9.0)),
        pytest.raises(SteeringError, match="steered already"),
    ):
        steer(model, make_profile(model, [(2, 3)], "bias", 9.0)).install()

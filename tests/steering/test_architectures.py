"""Steering on the router class, experts and top-k of each of the ten models, small and random.

deepseek-moe-16b is not here: transformers does not carry its code (see
tests/engines/vllm/test_steered_vllm.py).
"""

import copy
import functools

import pytest
import torch

from dsmoe_eval.engines.transformers.shared_prefix_forward import cache_argument
from dsmoe_eval.models.loading import card_config, identify_model
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.models.probing import probe_model
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import (
    SteeringError,
    capture_routing,
    describe_scoring,
    find_routers,
    steer,
)

from ..conftest import profile_of

CARDS = [name for name in builtin_names("models") if load_model_card(name).transformers]
# Left out of the quick set: of a shape with one that is in it, or large.
LARGE = {
    "gpt-oss-120b", "qwen3-30b-a3b-thinking-2507", "qwen3-next-80b-a3b-thinking",
    "emo-1b14b-1t", "stdmoe-1b14b-1t",
}  # fmt: skip
CARDS = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in CARDS]
KINDS = ("reweight", "bias", "amplify", "force", "mask")


@functools.cache
def build(name, dtype):
    return miniature(card_config(load_model_card(name)), dtype)


@pytest.fixture(params=CARDS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    """Shared between tests: steering leaves a model as it was, which is itself under test."""
    return build(name, torch.float32)


@pytest.fixture
def batch():
    """Input ids and mask, [3, 9], the last two rows padded on the left."""
    ids = torch.randint(2, 128, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    mask[2, :6] = 0
    return ids * mask, mask


def allowed(model):
    """The kinds that this model's routers do not refuse; `test_intervention` says which."""
    scoring = describe_scoring(find_routers(model)[0])
    return [kind for kind in KINDS if kind != "force" or can_force(scoring)]


def can_force(scoring):
    return scoring.shift_invariant and not scoring.correction_bias


def channel_of(model):
    return "score" if describe_scoring(find_routers(model)[0]).correction_bias else "logit"


@torch.no_grad()
def run(model, ids, mask, **settings):
    routers = find_routers(model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with capture_routing(routers) as routing:
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **settings
        ).logits
    kept = mask.flatten().bool()
    return logits.flatten(0, 1)[kept], routing.indices()[kept], routing.weights()[kept]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_probe(name, dtype):
    """Null, effect, active experts, capture and every intervention, as `dsmoe-eval probe` does."""
    model, card = build(name, dtype), load_model_card(name)
    report = probe_model(model, identify_model(name, "0", model))
    assert report.passed, report
    assert (report.experts, report.top_k) == (card.experts, card.top_k)
    rule = card.routing
    function, renormalised = {
        # Found by trying out: these two cannot be, or are not, told from their neighbours.
        "softmax-topk": ("softmax", True),
        "sparsemixer": ("other", False),
    }.get(rule.function, (rule.function, rule.renormalised))
    found = report.scoring
    assert (found.function, found.renormalised) == (function, renormalised)
    assert found.correction_bias == rule.correction_bias


@pytest.mark.parametrize("kind", KINDS)
def test_intervention(model, batch, kind, record_property):
    """Null is bit-identical, and what is refused is refused by name and for its reason."""
    before = run(model, *batch)
    profile = profile_of(model, kind)
    scoring = describe_scoring(find_routers(model)[0])
    if kind == "force" and not can_force(scoring):
        with pytest.raises(SteeringError, match=r"^force "):
            steer(model, profile).install()
        record_property("outcome", "refused")
    else:
        with steer(model, profile):
            assert not torch.equal(run(model, *batch)[0], before[0])
        with steer(model, profile.with_strength(0.0)):
            assert equal(run(model, *batch), before)
    assert equal(run(model, *batch), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_strong_bias_selects_its_expert_for_every_token(name, batch, dtype):
    model = build(name, dtype)
    profile = profile_of(model, "bias", 1e15, experts=[1], channel=channel_of(model))
    with steer(model, profile):
        indices = run(model, *batch)[1]
    assert (indices == 1).any(-1).all()
    assert indices.shape[-1] == find_routers(model)[0].top_k


def test_padding_changes_no_answer(model, batch):
    ids, mask = batch
    for kind in allowed(model):
        with steer(model, profile_of(model, kind)):
            padded = run(model, ids, mask)
            rows = zip(ids[:, None], mask[:, None], mask.bool(), strict=True)
            rows = [run(model, row[:, kept], ones[:, kept]) for row, ones, kept in rows]
        alone = torch.cat([row[0] for row in rows])
        torch.testing.assert_close(padded[0], alone, rtol=1e-3, atol=2e-4)


def test_the_cache_changes_no_answer(model, batch):
    ids, name = batch[0][:1], cache_argument(model)
    for kind in allowed(model):
        with torch.no_grad(), steer(model, profile_of(model, kind)):
            whole = model(input_ids=ids, use_cache=False).logits
            first = model(input_ids=ids[:, :5], use_cache=True)
            logits, cache = [first.logits], first[name]
            for place in range(5, ids.shape[1]):
                step = model(input_ids=ids[:, place : place + 1], **{name: cache})
                logits, cache = [*logits, step.logits], step[name]
        torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_of_the_experts_obeys(model, batch, implementation):
    former = model.config._experts_implementation
    expected = {kind: steered(model, kind, batch) for kind in allowed(model)}
    model.set_experts_implementation(implementation)
    try:
        before = run(model, *batch)
        for kind, (logits, indices, _) in expected.items():
            got = steered(model, kind, batch)
            assert torch.equal(got[1], indices)
            torch.testing.assert_close(got[0], logits, rtol=1e-3, atol=1e-4)
            with steer(model, profile_of(model, kind, 0.0)):
                assert equal(run(model, *batch), before)
    finally:
        model.set_experts_implementation(former)


def steered(model, kind, batch):
    with steer(model, profile_of(model, kind)):
        return run(model, *batch)


@pytest.mark.parametrize("offload", [False, True], ids=["hooked", "offloaded"])
def test_under_accelerate(model, batch, offload):
    """Hooks that accelerate put on before, and weights that it took out of memory."""
    from accelerate import cpu_offload, dispatch_model

    expected = {kind: steered(model, kind, batch) for kind in allowed(model)}
    hooked = copy.deepcopy(model)
    if offload:
        cpu_offload(hooked, execution_device=torch.device("cpu"))
    else:
        dispatch_model(hooked, device_map={"": "cpu"}, force_hooks=True)
    assert hasattr(find_routers(hooked)[0].module, "_old_forward") == offload or not offload
    before = run(hooked, *batch)
    for kind, wanted in expected.items():
        if offload and channel_of(model) == "score" and kind == "mask":
            continue  # refused: the correction bias is offloaded (see below)
        assert equal(steered(hooked, kind, batch), wanted)
        assert equal(run(hooked, *batch), before)


def test_hooks_that_came_after_steering_do_not_keep_it_alive(model, batch):
    from accelerate.hooks import ModelHook, add_hook_to_module

    hooked = copy.deepcopy(model)
    before = run(hooked, *batch)
    steering = steer(hooked, profile_of(hooked, "bias")).install()
    during = run(hooked, *batch)
    for router in find_routers(hooked):
        add_hook_to_module(router.module, ModelHook())
    assert equal(run(hooked, *batch), during)
    steering.remove()
    assert equal(run(hooked, *batch), before)


@pytest.mark.slow
def test_a_compiled_router_is_steered(model):
    """fullgraph: no graph break; the same bits as uncompiled."""
    router = find_routers(model)[0]
    hidden = torch.randn(1, 7, router.weight.shape[1], generator=torch.Generator().manual_seed(2))
    hidden = hidden.flatten(0, 1)
    for kind in allowed(model):
        with torch.no_grad(), steer(model, profile_of(model, kind)):
            torch.compiler.reset()
            compiled = torch.compile(router.module.forward, fullgraph=True, backend="aot_eager")
            assert equal(compiled(hidden), router.module.forward(hidden))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olmoe-1b-7b", "gpt-oss-20b", "qwen3-30b-a3b-instruct-2507"])
def test_a_compiled_model_is_steered(model, batch):
    """Whole models take long to compile: some of them, an edit of logits and one of weights."""
    ids, mask = batch
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for kind in ("bias", "reweight"):
        logits, _, _ = steered(model, kind, batch)
        torch.compiler.reset()
        with torch.no_grad(), steer(model, profile_of(model, kind)):
            compiled = torch.compile(model.forward, backend="aot_eager")
            got = compiled(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).logits.flatten(0, 1)[mask.flatten().bool()]
        torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-5)


def test_nested_and_failed_contexts_restore_every_bit(model, batch):
    before = run(model, *batch)
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    for kind in allowed(model):
        profile = profile_of(model, kind)
        with steer(model, profile), pytest.raises(SteeringError, match="steered already"):
            steer(model, profile).install()
        with pytest.raises(ZeroDivisionError), steer(model, profile):
            raise ZeroDivisionError
    assert equal(run(model, *batch), before)
    after = model.state_dict()
    assert list(after) == list(tensors)
    assert all(torch.equal(after[key], tensors[key]) for key in tensors)


def test_capture(model, batch):
    """What the experts receive is what the model's own `output_router_logits` says."""
    ids, mask = batch
    router = find_routers(model)[0]
    scoring = describe_scoring(router)
    for kind in (None, "bias", "mask"):
        with steer(model, profile_of(model, kind or "bias", None if kind else 0.0)):
            routers = find_routers(model)
            with torch.no_grad(), capture_routing(routers) as routing:
                output = model(
                    input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True
                )
            indices, weights = routing.indices(), routing.weights()
            for place, logits in enumerate(output.router_logits):
                expected = reference(routers[place], logits.flatten(0, -2).float(), scoring)
                assert torch.equal(expected[1].sort(-1).values, indices[:, place].sort(-1).values)
                order = expected[1].argsort(-1), indices[:, place].argsort(-1)
                torch.testing.assert_close(
                    expected[0].gather(-1, order[0]),
                    weights[:, place].float().gather(-1, order[1]),
                    rtol=1e-4,
                    atol=1e-5,
                )


def reference(router, logits, scoring):
    """Weights and indices from logits, [tokens, k], by each rule in its plainest form."""
    if scoring.function == "other":
        return sparsemixer(logits)
    scores = logits.softmax(-1) if scoring.function == "softmax" else logits.sigmoid()
    choice = scores if router.correction_bias is None else scores + router.correction_bias.flatten()
    indices = choice.topk(router.top_k).indices
    weights = scores.gather(-1, indices)
    return (weights / weights.sum(-1, keepdim=True) if scoring.renormalised else weights), indices


def sparsemixer(logits, jitter=0.01):
    """Two rounds of: the best expert, weighed by a softmax over those within 2 * jitter of it."""
    weights, indices, left = [], [], logits.clone()
    for _ in range(2):
        best, index = left.max(-1, keepdim=True)
        near = (best - logits) / logits.abs().clamp(min=best) <= 2 * jitter
        shares = left.masked_fill(~near, float("-inf")).softmax(-1)
        weights.append(shares.gather(-1, index))
        indices.append(index)
        left = left.scatter(-1, index, float("-inf"))
    return torch.cat(weights, -1), torch.cat(indices, -1)

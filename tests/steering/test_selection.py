"""What steering adds to a forward pass, counted; and that the cheap forms are the plain edits."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsmoe_eval.steering import (
    SteeringError,
    describe_scoring,
    find_routers,
    probe,
    steer,
)
from dsmoe_eval.steering.interventions import (
    LayerEffect,
    add_to_chosen,
    edit_weights,
    layer_effect,
    reweighted,
    scale_chosen,
)
from dsmoe_eval.steering.router_patch import Edit, attach, detach
from dsmoe_eval.steering.selection import find_selection

from ..conftest import ARCHITECTURES, make_model, profile_of
from .test_steer import run

CHOSEN = (0, 3)
# `reweight` where the router divides by the sum itself; olmoe, qwen2_moe and phimoe do not, so that
# the sums are needed: take, multiply, sum, sum, divide, multiply.
ADDED = {"bias": 0, "mask": 0, "score": 0, "amplify": 2, "reweight": 2, "force": 14}
NOT_RENORMALISED = {"olmoe", "qwen2_moe", "phimoe"}
REFUSED = {("ernie4_5_moe", "force"), ("phimoe", "force")}
VIEWS = {"t", "view", "_unsafe_view", "detach", "alias"}


class Counted(TorchDispatchMode):
    """The operations that reach a device; a view computes nothing."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names[{"addmm": "mm"}.get(name, name)] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operations(model, ids):
    with Counted() as counted:
        model(input_ids=ids, use_cache=False)
    return counted.names


def profile(model, kind, strength=None):
    channel = "score" if kind == "score" else "logit"
    return profile_of(model, "bias" if kind == "score" else kind, strength, CHOSEN, channel)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_operations_that_steering_adds_to_a_layer(architecture):
    model = make_model(architecture)
    # Selecting other experts may be other work in them; what routers do does not depend on it.
    model.set_experts_implementation("batched_mm")
    ids = torch.arange(2, 7)[None]
    before, layers = operations(model, ids), len(find_routers(model))
    added = dict(ADDED)
    if architecture in NOT_RENORMALISED:
        added["reweight"] = 6
    for kind, expected in added.items():
        if (architecture, kind) in REFUSED or (kind == "score" and architecture != "ernie4_5_moe"):
            with pytest.raises(SteeringError):
                steer(model, profile(model, kind)).install()
            continue
        for strength in (None, 0.0):
            if strength == 0.0 and kind == "force":
                expected = 0  # a shift of nothing
            with steer(model, profile(model, kind, strength)):
                during = operations(model, ids)
            assert during.total() - before.total() == expected * layers, (kind, during - before)
            assert not before - during


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_operations_in_16_bits(architecture):
    model = make_model(architecture).to(torch.bfloat16)
    model.set_experts_implementation("batched_mm")
    ids = torch.arange(2, 7)[None]
    before, layers = operations(model, ids), len(find_routers(model))
    expected = {"amplify": 2, "reweight": 6 if architecture in NOT_RENORMALISED else 2}
    if architecture == "phimoe":  # its weights are in 16 bits already where they are edited
        expected["reweight"] = 7
    for kind, operations_added in expected.items():
        with steer(model, profile(model, kind)):
            during = operations(model, ids)
        assert during.total() - before.total() == operations_added * layers, during - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_amplify_in_memory_has_the_same_bits_and_a_gradient(architecture, dtype):
    model = make_model(architecture).to(dtype).requires_grad_(False)
    model.set_experts_implementation("eager")
    one, ids = profile(model, "amplify", 1.5), torch.arange(2, 7)[None]
    embeddings = model.get_input_embeddings()(ids)

    def results(states):
        logits = model(inputs_embeds=states, use_cache=False).logits
        return torch.autograd.grad(logits.square().sum(), states)[0], logits.detach()

    with steer(model, one):
        gradient, recorded = results(embeddings.clone().requires_grad_())
        with torch.no_grad():
            logits = model(inputs_embeds=embeddings, use_cache=False).logits
    assert torch.equal(logits, recorded)  # recorded by autograd, so not computed in memory
    assert gradient.isfinite().all()
    assert gradient.any()
    with steer(model, one.with_strength(0.0)), torch.no_grad():
        null = model(inputs_embeds=embeddings, use_cache=False).logits
    assert torch.equal(null, model(inputs_embeds=embeddings, use_cache=False).logits)


@contextmanager
def plainly(model, profile):
    """Steer by operations of their own, in float32, as before the cheap forms."""
    router = find_routers(model)[0]
    if profile.intervention.kind in ("bias", "mask"):
        with steer(model, profile).in_float32():
            yield
        return
    effect = layer_effect(profile.intervention, profile.experts, router.experts)
    attach(router, Edit(weights=lambda weights, indices: edit_weights(weights, indices, effect)))
    yield
    detach(router.module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["bias", "mask", "amplify", "reweight"])
def test_the_cheap_forms_are_the_plain_edits(model, batch, make_profile, kind, dtype):
    model.to(dtype)
    model.set_experts_implementation("eager")
    one = make_profile(model, [(0, 3), (0, 5)], kind, 1.0)
    with steer(model, one):
        logits, indices, weights = run(model, *batch)
    with plainly(model, one):
        expected = run(model, *batch)
    if dtype == torch.bfloat16:
        # A shift that is rounded first may turn a near tie; not more than that.
        assert (indices[:, 0] != expected[1][:, 0]).any(-1).float().mean() <= 0.1
        return
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(weights, expected[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, expected[0], rtol=1e-4, atol=1e-5)


def test_a_bfloat16_model_says_what_rounding_the_shift_does(model, batch, make_profile):
    profile = make_profile(model, [(0, 3), (2, 5)], "bias", 4.0)
    assert probe(model, profile, *batch).rounding_changed is None
    model.to(torch.bfloat16)
    report = probe(model, profile, *batch)
    in_float32 = describe_scoring(find_routers(model)[0]).logits_dtype == "float32"
    steering = steer(model, profile)
    with steering:
        rounded = run(model, *batch)[1]
    with steering.in_float32():
        exact = run(model, *batch)[1]
    differ = (rounded.sort(-1).values != exact.sort(-1).values).any(-1).float().mean()
    assert report.rounding_changed == (None if in_float32 else pytest.approx(float(differ)))
    assert probe(model, profile.with_strength(0.0), *batch).rounding_changed is None


def test_an_edit_of_weights_without_chosen_experts_changes_no_bit():
    weights = torch.rand(64, 4)
    indices = torch.rand(64, 8).topk(4).indices
    effect = LayerEffect(weight_factor=torch.ones(8), keep_sum=True)
    assert torch.equal(edit_weights(weights, indices, effect), weights)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_where_weights_are_edited(architecture):
    """At the last call that selects; logits where a softmax follows."""
    for router in find_routers(make_model(architecture)):
        renormalised = architecture not in NOT_RENORMALISED
        found = [find_selection(router, keep_sum, renormalised) for keep_sum in (True, False)]
        changes = [None if one is None else one.change for one in found]
        if architecture == "phimoe":  # one value at a time is selected
            assert changes == [None, None]
        elif renormalised:
            scaling = add_to_chosen if architecture == "gpt_oss" else scale_chosen
            assert changes == [scaling, None]
        else:
            assert changes == [reweighted, scale_chosen]

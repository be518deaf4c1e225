"""Steering on a GPU: no bit changes at strength zero, and the answers are those of a CPU.

The oracle is the same steered model on a CPU in float64. PyTorch does not use TF32 unless it is
told to, so float32 on a GPU is float32, and 1e-4 allows some hundred roundings.
"""

import copy

import pytest
import torch
from accelerate import cpu_offload, dispatch_model

from dsmoe_eval.models.loading import identify_model, load_model
from dsmoe_eval.models.probing import probe_model, random_batch
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import capture_routing, find_routers, probe, router_patch, steer

from ..conftest import ARCHITECTURES, make_model, profile_of, vector_profile
from ..steering.test_architectures import allowed, build, channel_of

pytestmark = pytest.mark.gpu
GPU = "cuda"
CARDS = [name for name in builtin_names("models") if load_model_card(name).transformers]


@torch.no_grad()
def run(model, ids, mask):
    """Logits, selected experts and their weights of the tokens that are no padding."""
    with capture_routing(find_routers(model)) as routing:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    kept = mask.flatten().bool()
    found = logits.flatten(0, 1)[kept], routing.indices()[kept], routing.weights()[kept]
    return [one.detach().cpu() for one in found]


def on_gpu(batch):
    return [one.to(GPU) for one in batch]


def check_as_exact(got, exact):
    """Compare with a pass in float64: the experts as sets, since equal weights have no order."""
    torch.testing.assert_close(got[0].double(), exact[0].double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(got[1].sort(-1).values, exact[1].sort(-1).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CARDS)
def test_each_model_passes_the_probes(name, dtype):
    """Each intervention: null probe, effect, number of experts, capture, and what its kind says."""
    model = copy.deepcopy(build(name, dtype)).to(GPU)
    report = probe_model(model, identify_model(name, "0", model))
    assert report.passed, report
    done = [row.figures for row in report.interventions if row.figures]
    assert [one.null_max_difference for one in done] == [0.0] * len(done)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_steered_outputs_are_those_of_float64_on_a_cpu(architecture, batch):
    model = make_model(architecture)
    exact, here = copy.deepcopy(model).double(), copy.deepcopy(model).to(GPU)
    exact.set_experts_implementation("eager")  # torch's grouped products know no float64
    before, given = run(here, *on_gpu(batch)), on_gpu(batch)
    check_as_exact(before, run(exact, *batch))
    for kind in allowed(model):
        profile = profile_of(model, kind, channel="logit")
        with steer(here, profile), steer(exact, profile_of(exact, kind)):
            check_as_exact(run(here, *given), run(exact, *batch))
        assert all(map(torch.equal, run(here, *given), before))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss", "ernie4_5_moe"])
def test_a_vector_moves_the_stream_as_on_a_cpu(architecture, batch):
    model = make_model(architecture)
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(3)).tolist()
    profile = vector_profile(identify_model("tiny", "0", model), {1: tuple(drawn)}, 2.5)
    with steer(model, profile):
        expected = run(model, *batch)
    model.to(GPU)
    before = run(model, *on_gpu(batch))
    report = probe(model, profile, *on_gpu(batch))
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0
    with steer(model, profile):
        check_as_exact(run(model, *on_gpu(batch)), expected)
    assert all(map(torch.equal, run(model, *on_gpu(batch)), before))


@pytest.mark.parametrize("division", ["hooked", "offloaded", "divided"])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss", "ernie4_5_moe"])
def test_a_model_that_accelerate_divides_is_steered_alike(architecture, division, batch):
    model = make_model(architecture)
    # A correction bias that accelerate took off the device cannot be shifted, and is refused.
    profile = profile_of(model, "reweight" if channel_of(model) == "score" else "bias")
    with steer(model, profile):
        expected = run(model, *batch)
    if division == "offloaded":
        cpu_offload(model, execution_device=torch.device(GPU))
    else:
        rest = "cpu" if division == "divided" else GPU
        trunk = {f"model.{name}": GPU for name, _ in model.model.named_children()}
        trunk.pop("model.layers")
        layers = {f"model.layers.{i}": rest if i == 1 else GPU for i in range(3)}
        dispatch_model(
            model, {**trunk, **layers, "lm_head": GPU}, main_device=GPU, force_hooks=True
        )
    before = run(model, *on_gpu(batch))
    with steer(model, profile):
        check_as_exact(run(model, *on_gpu(batch)), expected)
    assert all(map(torch.equal, run(model, *on_gpu(batch)), before))


def test_a_model_on_the_devices_that_there_are():
    """`--device auto`: accelerate chooses, and steering leaves nothing behind."""
    loaded = load_model("lab-poly", "auto")
    assert {one.device.type for one in loaded.model.parameters()} == {GPU}
    profile = profile_of(loaded.model, "reweight").model_copy(update={"model": loaded.identity})
    assert probe(loaded.model, profile, *random_batch(loaded.model)).null_max_difference == 0.0
    assert not any(router_patch.is_attached(one.module) for one in find_routers(loaded.model))

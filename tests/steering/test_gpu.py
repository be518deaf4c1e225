"""What only a GPU can show of steering: one kernel, one program, the same bits at strength zero."""

import pytest
import torch

from dsmoe_eval.steering import add_zero_biases, find_routers, probe, steer
from dsmoe_eval.steering.interventions import LayerEffect, edit_weights, reweighted_in_a_kernel
from dsmoe_eval.steering.kernels import on_device
from dsmoe_eval.steering.zero_bias import remove_zero_biases

from ..conftest import make_model, profile_of
from .test_steer import run

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
KINDS = ("bias", "mask", "reweight", "amplify")


@pytest.fixture
def inputs(batch):
    return tuple(tensor.to(GPU) for tensor in batch)


def kernels(work):
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in seen.events())


@pytest.mark.parametrize("architecture", ["qwen3_moe", "olmoe", "gpt_oss", "ernie4_5_moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_probe_passes_and_base_is_the_same_program(architecture, dtype, inputs):
    model = make_model(architecture).to(GPU, dtype)
    added = add_zero_biases(model)
    assert len(added) == len(find_routers(model))
    before = run(model, *inputs)
    for kind in KINDS:
        profile = profile_of(model, kind)
        assert probe(model, profile, *inputs).null_max_difference == 0.0
        with steer(model, profile.with_strength(0.0)):
            assert all(map(torch.equal, run(model, *inputs), before))
    remove_zero_biases(added)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reweight_is_one_kernel_with_the_figures_of_the_plain_edit(dtype):
    weights = torch.rand(64, 8, device=GPU, dtype=dtype)
    indices = torch.rand(64, 64, device=GPU).topk(8).indices
    factor = torch.ones(64, device=GPU)
    compiled = on_device(reweighted_in_a_kernel, GPU)
    assert compiled is not reweighted_in_a_kernel, "torch.compile does not work on this GPU"
    assert torch.equal(compiled(weights, indices, factor), weights)
    factor[::4] = 3.0
    expected = edit_weights(weights, indices, LayerEffect(weight_factor=factor, keep_sum=True))
    torch.testing.assert_close(compiled(weights, indices, factor), expected)
    assert kernels(lambda: compiled(weights, indices, factor)) == 1


@pytest.mark.parametrize(("architecture", "reweight"), [("qwen3_moe", 1), ("olmoe", 1)])
def test_kernels_that_steering_adds_to_a_layer(architecture, reweight, inputs):
    model = make_model(architecture).to(GPU, torch.bfloat16)
    model.set_experts_implementation("batched_mm")
    add_zero_biases(model)

    def work():
        with torch.no_grad():
            model(input_ids=inputs[0], use_cache=False)

    before, layers = kernels(work), len(find_routers(model))
    for kind, expected in {"bias": 0, "mask": 0, "reweight": reweight, "amplify": 1}.items():
        with steer(model, profile_of(model, kind)):
            assert kernels(work) - before <= expected * layers, kind

"""Edits as one kernel; on a GPU also one program and the same bits at strength zero."""

import shutil

import pytest
import torch

from dsmoe_eval.steering import add_zero_biases, find_routers, kernels, probe, steer
from dsmoe_eval.steering.interventions import (
    LayerEffect,
    edit_weights,
    reweighted,
    reweighted_in_a_kernel,
)
from dsmoe_eval.steering.kernels import one_kernel
from dsmoe_eval.steering.zero_bias import remove_zero_biases

from ..conftest import make_model, profile_of
from .test_selection import Counted
from .test_steer import run

GPU = torch.device("cuda")
KINDS = ("bias", "mask", "reweight", "amplify")


def chosen(tokens, dtype, device="cpu", top_k=8):
    weights = torch.rand(tokens, top_k, dtype=dtype, device=device)
    indices = torch.rand(tokens, 64, device=device).topk(top_k).indices
    factor = torch.ones(64, device=device)
    factor[::4] = 3.0
    return weights, indices, factor


def test_without_a_compiler_the_operations_run_one_by_one_and_a_warning_says_so(
    monkeypatch, caplog
):
    def broken(*_args, **_options):
        raise RuntimeError("Cannot find a working triton installation\nmore")

    monkeypatch.setattr(kernels, "compile_kernel", broken)
    kernels._kernel.cache_clear()
    kernels._warn.cache_clear()
    assert one_kernel(reweighted, torch.device("cpu")) is reweighted
    edit, given = one_kernel(reweighted, GPU), chosen(3, torch.float32)
    assert not caplog.messages
    for _ in range(2):
        assert torch.equal(edit(*given), reweighted(*given))
    assert len(caplog.messages) == 1
    assert "one operation at a time" in caplog.text
    assert "triton" in caplog.text
    kernels._kernel.cache_clear()


def test_a_kernel_that_gives_other_figures_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "compile_kernel", lambda *_: lambda given: [given[0] * 2])
    kernels._kernel.cache_clear()
    kernels._warn.cache_clear()
    given = chosen(3, torch.float32)
    assert torch.equal(one_kernel(reweighted, GPU)(*given), reweighted(*given))
    assert "not close" in caplog.text
    kernels._kernel.cache_clear()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++ on a CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_compilation_serves_any_number_of_tokens(monkeypatch, dtype):
    """Inductor's kernel on a CPU, made and called in the same way as on a GPU."""
    compile_kernel, compiled = kernels.compile_kernel, []

    def counted(*given):
        compiled.append(compile_kernel(*given))
        return compiled[-1]

    monkeypatch.setattr(kernels, "compile_kernel", counted)
    kernels._kernel.cache_clear()
    edit = one_kernel(reweighted_in_a_kernel, GPU)
    for tokens in (1, 7, 2048):
        weights, indices, factor = chosen(tokens, dtype)
        with Counted() as counting, torch.inference_mode():
            edited = edit(weights, indices, factor)
        assert tokens == 1 or not counting.names
        torch.testing.assert_close(edited, reweighted(weights, indices, factor))
        assert torch.equal(edit(weights, indices, torch.ones(64)), weights)
    assert len(compiled) == 1
    strided = weights.T.contiguous().T
    torch.testing.assert_close(edit(strided, indices, factor), edited)
    weights.requires_grad_()
    assert edit(weights, indices, factor).requires_grad
    kernels._kernel.cache_clear()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++ on a CPU")
def test_few_selected_experts_make_no_kernel_more_than_eight():
    """Inductor's nodes: what it makes of sums of fewer than 8 values was a second GPU kernel."""
    from torch._inductor import config, metrics

    nodes = []
    for top_k in (2, 8):
        metrics.reset()
        with config.patch(fx_graph_cache=False), torch.no_grad():
            given = chosen(6, torch.float32, top_k=top_k)
            kernels.compile_kernel(reweighted_in_a_kernel, given)
        nodes.append(metrics.ir_nodes_pre_fusion)
    assert nodes[0] == nodes[1] > 0


@pytest.fixture
def inputs(batch):
    return tuple(tensor.to(GPU) for tensor in batch)


def started(work):
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in seen.events())


@pytest.mark.gpu
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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_k", [2, 4, 8])
def test_reweight_is_one_kernel_with_the_figures_of_the_plain_edit(dtype, top_k):
    compiled = one_kernel(reweighted_in_a_kernel, GPU)
    for tokens in (1, 7, 2048):
        weights, indices, factor = chosen(tokens, dtype, GPU, top_k)
        assert torch.equal(compiled(weights, indices, torch.ones(64, device=GPU)), weights)
        expected = edit_weights(weights, indices, LayerEffect(weight_factor=factor, keep_sum=True))
        torch.testing.assert_close(compiled(weights, indices, factor), expected)
    assert started(lambda: compiled(weights, indices, factor)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("architecture", "reweight"), [("qwen3_moe", 2), ("olmoe", 1)])
def test_kernels_that_steering_adds_to_a_layer(architecture, reweight, inputs):
    model = make_model(architecture).to(GPU, torch.bfloat16)
    model.set_experts_implementation("batched_mm")
    add_zero_biases(model)

    def work():
        with torch.no_grad():
            model(input_ids=inputs[0], use_cache=False)

    before, layers = started(work), len(find_routers(model))
    for kind, expected in {"bias": 0, "mask": 0, "reweight": reweight, "amplify": 3}.items():
        with steer(model, profile_of(model, kind)):
            assert started(work) - before <= expected * layers, kind

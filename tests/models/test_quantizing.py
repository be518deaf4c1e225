"""Quantization as rounding, against NumPy; and what a probe finds of it."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import load_model, probe_quantization, quantized_share, write_quantized
from dsmoe_eval.models.quantizing import MARK, round_experts, round_weights
from dsmoe_eval.steering import find_routers

from ..conftest import make_model

E4M3 = np.array(sorted(
    sign * (2.0 ** (e - 7) * (1 + m / 8) if e else 2.0**-6 * m / 8)
    for sign in (1, -1) for e in range(16) for m in range(8) if (e, m) != (15, 7)
))  # fmt: skip
"""All finite numbers of fp8 e4m3."""


def by_hand(row, form, group):
    result = []
    for start in range(0, len(row), group):
        part = row[start : start + group]
        most = {"int8": 127, "int4": 7, "fp8": 448}[form]
        scale = np.abs(part).max() / most or 1.0
        if form == "fp8":
            nearest = [E4M3[np.abs(E4M3 - one).argmin()] for one in part / scale]
            result += [one * scale for one in nearest]
        else:
            result += list(np.rint(part / scale) * scale)
    return np.array(result)


@given(st.integers(0, 10**6), st.sampled_from(["int8", "int4", "fp8"]), st.sampled_from([4, 7, 16]))
def test_rounding_equals_that_by_hand(seed, form, group):
    weights = np.random.default_rng(seed).normal(size=(2, 16)).astype(np.float32)
    weights[0, :4] = 0
    rounded = round_weights(torch.tensor(weights), form, group).numpy()
    expected = np.stack([by_hand(row.astype(np.float64), form, group) for row in weights])
    # A number halfway between two may go to either.
    step = np.abs(weights).max() / {"int8": 127, "int4": 7, "fp8": 14}[form]
    close = np.isclose(rounded, expected, rtol=1e-5, atol=1e-7)
    assert close.mean() > 0.9
    assert (np.abs(rounded - weights) <= 0.51 * step).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["int8", "int4", "fp8"])
def test_what_is_rounded_is_found_and_what_is_not_is_not(form, dtype):
    model = make_model("qwen3_moe").to(dtype)
    assert quantized_share(model) == 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_experts(model, form)
    assert quantized_share(model) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (".experts." not in name), name
    with torch.no_grad():
        find_routers(model)[0].consumer.down_proj[:4].normal_()
    # Half of the down projections of one of two layers, each a third of its experts' bytes.
    assert quantized_share(model) == pytest.approx(1 - 1 / 2 / 3 / 2)


def test_the_input_of_transposed_experts_is_grouped():
    """gpt-oss has its experts as [experts, input, output], and biases, which stay."""
    model = make_model("gpt_oss")
    experts = find_routers(model)[0].consumer
    weights, bias = experts.down_proj.clone(), experts.down_proj_bias.clone()
    round_experts(model, "int4")
    expected = by_hand(weights[2, :, 5].detach().double().numpy(), "int4", 128)
    np.testing.assert_allclose(experts.down_proj[2, :, 5].detach(), expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(experts.down_proj_bias, bias)
    assert quantized_share(model) == 1


def test_a_model_that_claims_quantization_and_has_none_fails(tmp_path):
    model = make_model("olmoe")
    assert probe_quantization(str(tmp_path), model).passed
    model.config.quantization_config = {"quant_method": "torchao"}
    found = probe_quantization(str(tmp_path), model)
    assert (found.claimed, found.share, found.passed) == ("torchao", 0.0, False)
    round_experts(model, "int8")
    assert probe_quantization(str(tmp_path), model).passed


def test_a_written_copy_is_marked_and_probed(tmp_path):
    model = make_model("olmoe")
    model.save_pretrained(tmp_path / "model")
    for path in EMBEDDED_MODELS["lab-poly"].glob("token*"):
        shutil.copyfile(path, tmp_path / "model" / path.name)
    found = write_quantized(str(tmp_path / "model"), "int4", tmp_path / "copy")
    assert (found.claimed, found.share, found.passed) == ("int4", 1.0, True)
    copy = load_model(str(tmp_path / "copy"), "cpu")
    round_experts(model, "int4")
    for name, value in copy.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert json.loads((tmp_path / "copy" / MARK).read_text())["form"] == "int4"
    shutil.copyfile(tmp_path / "copy" / MARK, tmp_path / "model" / MARK)  # a false claim
    loaded = load_model(str(tmp_path / "model"), "cpu")
    assert not probe_quantization(str(tmp_path / "model"), loaded.model).passed
    with pytest.raises(UserError, match="exists already; write into a new folder"):
        write_quantized(str(tmp_path / "model"), "int4", tmp_path / "copy")
    with pytest.raises(UserError, match="no form 'int3'; there are: int8, int4, fp8"):
        write_quantized(str(tmp_path / "model"), "int3", tmp_path / "other")


def test_quantized_experts_are_not_rounded_again():
    model = make_model("olmoe")
    experts = find_routers(model)[0].consumer
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"layer 0: 'down_proj' of the experts is torch\.int8"):
        round_experts(model, "int8")
    assert quantized_share(model) == pytest.approx(1 / (1 + 8 + 12 + 12))  # in bytes

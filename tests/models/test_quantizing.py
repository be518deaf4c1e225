"""Quantization as rounding, against NumPy; and what a probe finds of it."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, TorchAoConfig

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import load_model, probe_quantization, quantized_share, write_quantized
from dsmoe_eval.models.quantizing import MARK, round_experts, round_weights, rounded_experts
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
    with pytest.raises(UserError, match="layer 0: 'down_proj' of the experts is quantized"):
        round_experts(model, "int8")
    assert quantized_share(model) == pytest.approx(1 / (1 + 8 + 12 + 12))  # in bytes


@pytest.mark.parametrize("name", ["gpt_oss", "olmoe"])
def test_rounded_experts_are_as_before_bit_for_bit(name):
    model = make_model(name).to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with suppress(KeyError), rounded_experts(model, "int4") as share:
        assert share == quantized_share(model) == 1
        raise KeyError
    assert quantized_share(model) == 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def with_tokenizer(folder, **changes):
    """A folder of `lab-poly` without its weights, and with changes of its configuration."""
    source = EMBEDDED_MODELS["lab-poly"]
    folder.mkdir(exist_ok=True)
    for path in [*source.glob("*.json"), *source.glob("*.jinja")]:
        if not path.name.endswith("index.json"):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((source / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def logits_of(model):
    return model(torch.arange(5, 45)[None]).logits


@pytest.mark.full
def test_experts_that_torchao_quantizes_by_name_are_found(tmp_path):
    """And plain torchao leaves fused experts as they are, without a word."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    int8 = torchao.Int8WeightOnlyConfig()
    names = [rf"re:.*\.experts\.{name}" for name in ("gate_up_proj", "down_proj")]
    chosen = torchao.FqnToConfig(dict.fromkeys(names, int8))
    plain = load_model("lab-poly", "cpu", "eager").model
    for settings, share in ((int8, 0.0), (chosen, 1.0)):
        folder = with_tokenizer(tmp_path / f"share-{share}")
        made = AutoModelForCausalLM.from_pretrained(
            EMBEDDED_MODELS["lab-poly"], quantization_config=TorchAoConfig(settings)
        )
        made.save_pretrained(folder)
        loaded = load_model(str(folder), "cpu", "eager")
        found = probe_quantization(str(folder), loaded.model)
        assert (found.claimed, found.share, found.passed) == ("torchao", share, share > 0)
    weights = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for name, value in plain.named_parameters():
            if ".experts." in name:
                value.copy_(weights[name].dequantize())
    torch.testing.assert_close(logits_of(loaded.model), logits_of(plain), atol=1e-4, rtol=0)
    with pytest.raises(UserError, match=r"quantized already \(Int8Tensor"):
        round_experts(loaded.model, "int4")


def compressed(folder, kind, pack, dtype="float32", **group):
    """`lab-poly` with experts in a format of compressed-tensors, and the dequantized model."""
    most, bits = {"float": (448, 8), "int": (7, 4)}[kind]
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": "channel"}
    group = {"targets": ["re:.*experts.*"], "weights": weights, **group}
    form = {"float": "float-quantized", "int": "pack-quantized"}[kind]
    claim = {"quant_method": "compressed-tensors", "format": form,
             "quantization_status": "compressed", "config_groups": {"group_0": group}}  # fmt: skip
    with_tokenizer(folder, quantization_config=claim, dtype=dtype)
    plain, packed = load_model("lab-poly", "cpu", dtype=dtype).model, {}
    for name, value in plain.state_dict().items():
        if ".experts." not in name:
            packed[name] = value.clone()
            continue
        experts, _, part = name.rpartition(".")
        parts = ["down_proj"] if part == "down_proj" else ["gate_proj", "up_proj"]
        for expert, matrix in enumerate(value):
            for one, rows in zip(parts, matrix.chunk(len(parts)), strict=True):
                scale = rows.float().abs().amax(-1, keepdim=True) / most
                numbers, stored = pack(rows.float() / scale)
                rows.copy_(numbers * scale)
                at = f"{experts}.{expert}.{one}"
                packed |= {f"{at}.{ending}": value for ending, value in stored.items()}
                packed[f"{at}.weight_scale"] = scale.contiguous()
                if kind == "int":
                    packed[f"{at}.weight_shape"] = torch.tensor(rows.shape)
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    return plain


@pytest.mark.full
def test_packed_experts_of_compressed_tensors_are_found(tmp_path):
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def pack(scaled):
        numbers = scaled.round().to(torch.int8)
        return numbers, {"weight_packed": pack_to_int32(numbers, 4).contiguous()}

    plain = compressed(tmp_path / "packed", "int", pack)
    loaded = load_model(str(tmp_path / "packed"), "cpu")
    found = probe_quantization(str(tmp_path / "packed"), loaded.model)
    assert (found.claimed, found.share) == ("compressed-tensors", 1.0)
    assert torch.equal(logits_of(loaded.model), logits_of(plain))


@pytest.mark.full
@pytest.mark.parametrize("activations", [False, True])
def test_fp8_experts_of_compressed_tensors_need_a_model_in_bfloat16(tmp_path, activations):
    """transformers decompresses them to bfloat16, whatever the dtype of the model."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

    def pack(scaled):
        numbers = scaled.to(torch.float8_e4m3fn)
        return numbers.float(), {"weight": numbers.contiguous()}

    given = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    rest = {"input_activations": given} if activations else {}
    for dtype in ("float32", "bfloat16"):
        folder = tmp_path / dtype
        plain = compressed(folder, "float", pack, dtype, **rest)
        if dtype == "float32":
            with pytest.raises(UserError, match=r"experts are in bfloat16 .* rest in float32"):
                load_model(str(folder), "cpu")
        loaded = load_model(str(folder), "cpu", dtype="bfloat16")
        found = probe_quantization(str(folder), loaded.model)
        assert (found.claimed, found.share) == ("compressed-tensors", 1.0)
        # The experts' inputs are not rounded to fp8, also where the checkpoint says so.
        expected = load_model("lab-poly", "cpu", dtype="bfloat16").model
        expected.load_state_dict(plain.state_dict())
        assert torch.equal(logits_of(loaded.model), logits_of(expected))

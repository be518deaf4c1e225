"""Loading by name, folder and hub id, and what is refused."""

import json
import shutil
from typing import get_args

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from dsmoe_eval.cards.plans import Attention
from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import bare_config, load_model
from dsmoe_eval.models.prompt_format import names_of_model


def test_the_embedded_model_and_its_copy_have_one_fingerprint(tmp_path):
    copy = shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / "copy")
    one, two = load_model("lab-poly", "cpu"), load_model(str(copy), "cpu")
    assert one.identity.fingerprint == two.identity.fingerprint
    assert one.identity.experts >= 24
    assert one.dtype == "float32"


def test_another_configuration_has_another_fingerprint(tmp_path):
    copy = shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    one, two = load_model("lab-poly", "cpu"), load_model(str(copy), "cpu")
    assert one.identity.fingerprint != two.identity.fingerprint


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"without config\.json is no model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nothing/at/all"])
def test_a_name_that_is_nothing(name):
    with pytest.raises(UserError, match="not a hub id"):
        load_model(name)


def test_pickled_weights_are_refused(tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(folder), "cpu")


def test_experts_are_computed_by_the_method_that_a_plan_names():
    ids = torch.arange(5, 45).reshape(2, 20)
    one, two = load_model("lab-poly", "cpu"), load_model("lab-poly", "cpu", "eager")
    assert one.experts_implementation != two.experts_implementation == "eager"
    with torch.no_grad():
        torch.testing.assert_close(one.model(ids).logits, two.model(ids).logits)


def test_a_model_that_transformers_computes_in_one_way_only(monkeypatch):
    def refuse(model, method):
        raise ValueError(f"{type(model).__name__} does not support setting it")

    # So does JetMoe: transformers has one method for it.
    monkeypatch.setattr(PreTrainedModel, "set_experts_implementation", refuse)
    with pytest.raises(UserError, match=r"cannot be computed by 'eager' .*leave `experts_impl"):
        load_model("lab-poly", "cpu", "eager")


def test_a_device_that_is_not_there():
    with pytest.raises(UserError, match=r"is not available .*--device"):
        load_model("lab-poly", "cuda:99")


def test_a_folder_named_like_a_card_is_a_folder(tmp_path):
    folder = tmp_path / "model.yaml"
    folder.mkdir()
    (folder / "config.json").write_bytes((EMBEDDED_MODELS["lab-poly"] / "config.json").read_bytes())
    assert getattr(bare_config(str(folder)), "model_type", None) == "qwen3_moe"


def test_code_of_transformers_that_is_no_causal_language_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    with pytest.raises(UserError, match="no causal language model for architecture 'qwen3_vl_moe'"):
        bare_config(str(tmp_path))


def test_a_models_own_code_is_never_run(tmp_path):
    """A hub model's `auto_map` would bring other router classes; transformers' are used instead."""
    import shutil

    from dsmoe_eval.lab import EMBEDDED_MODELS

    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "remote.RemoteConfig",
        "AutoModelForCausalLM": "remote.RemoteModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "remote.py").write_text("raise SystemExit('remote code was run')")
    loaded = load_model(str(folder), "cpu")
    assert type(loaded.model).__module__.startswith("transformers.models.qwen3_moe")


def test_an_architecture_without_code_is_refused_with_the_way_out(tmp_path):
    config = {"model_type": "deepseek", "auto_map": {"AutoConfig": "remote.RemoteConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (str(tmp_path), "deepseek-moe-16b-base"):
        if name == str(tmp_path):
            with pytest.raises(
                UserError, match=r"no code for architecture 'deepseek'.*SteeredVllm"
            ):
                load_model(name, "cpu")
        with pytest.raises(UserError, match=r"no code for architecture 'deepseek'.*SteeredVllm"):
            bare_config(name)


def copied(folder, **changes):
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("device", "expected"), [("cpu", None), ("meta", "meta")])
def test_weights_are_read_onto_the_device_and_never_moved(tmp_path, monkeypatch, device, expected):
    """A quantized model must not be moved at all: transformers refuses it."""
    given = {}

    def from_pretrained(**arguments):
        given.update(arguments)
        raise OSError("enough is seen")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    with pytest.raises(UserError, match="enough is seen"):
        load_model(str(copied(tmp_path / "m", **quantized)), device)
    assert given["device_map"] == expected


def test_no_module_is_moved_after_loading(monkeypatch):
    moved = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *a, **_: moved.append(a) or self)
    load_model("lab-poly", "cpu")
    assert not moved


@pytest.mark.gpu
def test_a_model_is_read_onto_the_gpu():
    loaded = load_model("lab-poly", "cuda")
    assert {one.device.type for one in loaded.model.parameters()} == {"cuda"}


def test_dtype_and_attention_are_as_named():
    loaded = load_model("lab-poly", "cpu", dtype="bfloat16", attn_implementation="eager")
    assert loaded.dtype == "bfloat16"
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.attn_implementation == "eager"
    assert load_model("lab-poly", "cpu").attn_implementation is None


def test_transformers_knows_the_attentions_that_a_plan_may_name():
    assert {*get_args(Attention)} - {"eager"} <= set(AttentionInterface().valid_keys())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache with two commits of one model, of which a tag names the second."""
    root = tmp_path / "models--some--model"
    for number, commit in enumerate(("a" * 40, "b" * 40)):
        copied(root / "snapshots" / commit, rms_norm_eps=10.0 ** -(5 + number))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (root / "refs" / "v2").write_text("b" * 40)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path), raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # what is cached only
    return "some/model"


def test_a_revision_is_part_of_the_identity(hub):
    for name, commit in ((hub, "a"), (f"{hub}@v2", "b"), (f"{hub}@{'b' * 40}", "b")):
        identity = load_model(name, "cpu").identity
        assert (identity.name, identity.fingerprint) == (name, commit * 40)
    assert names_of_model(f"{hub}@v2") == [hub]


def test_the_fingerprint_of_a_tag_is_its_commits(hub):
    two = load_model(f"{hub}@v2", "cpu")
    assert two.model.config.rms_norm_eps == pytest.approx(1e-6)

"""Loading by name, folder and hub id, and what is refused."""

import json
import shutil

import pytest
import torch
from transformers import PreTrainedModel

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import bare_config, load_model


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

"""Code that comes with a model is run only if its architecture was allowed by name."""

import json

import pytest
from transformers import AutoModelForCausalLM

from dsmoe_eval.errors import UserError
from dsmoe_eval.models import bare_config, load_model, probe_model
from dsmoe_eval.models.new_card import new_card
from dsmoe_eval.models.remote_code import allow_remote_code

from .remote import ARCHITECTURE, CODE, remote_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with code, which is allowed in its test only."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    for mapping in (CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", {**mapping._extra_content})
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return remote_folder(tmp_path / "few")


def test_it_is_refused_with_the_way_to_allow_it_and_not_run(folder):
    (folder / "fewest.py").write_text("raise SystemExit('remote code was run')")
    for refused in (new_card, bare_config):
        with pytest.raises(
            UserError,
            match=r"names fewest\.FewestForCausalLM, code that comes with the model: remote code "
            r"is not run unless .* --remote-code fewest_moe ",
        ):
            refused(str(folder))


def test_allowed_it_is_like_any_other(folder):
    """A router, experts and a block that transformers has never seen; a card, and all probes."""
    new = new_card(str(folder), ARCHITECTURE)
    card = new.card
    assert (card.architecture, card.transformers) == (ARCHITECTURE, False)
    assert (card.class_name, card.experts, card.top_k) == ("FewestForCausalLM", 6, 2)
    assert (card.dense_layers, card.shared_experts) == ((0,), 1)
    assert (card.routing.function, card.routing.renormalised) == ("sigmoid", True)
    assert "fewest.py, SHA-256 " in card.sources[1]
    assert new.probe.passed
    rows = {row.name: row for row in new.probe.interventions}
    assert {name for name, row in rows.items() if row.figures} == {
        "reweight", "bias", "amplify", "mask",
    }  # fmt: skip
    assert "changes this router's output" in rows["force"].refused


def test_with_weights_it_is_loaded_and_probed(folder, tmp_path):
    from ..engines.chatting import chat_tokenizer

    allow_remote_code(str(folder), str(folder), ARCHITECTURE)
    AutoModelForCausalLM.from_config(bare_config(str(folder))).save_pretrained(tmp_path / "w")
    (folder / "model.safetensors").write_bytes((tmp_path / "w" / "model.safetensors").read_bytes())
    chat_tokenizer(None).save_pretrained(folder)
    loaded = load_model(str(folder), "cpu")
    assert loaded.identity.layers == (1, 2, 3, 4)
    assert probe_model(loaded.model, loaded.identity).passed


def test_only_by_the_name_of_its_architecture(folder):
    with pytest.raises(UserError, match="its architecture is 'fewest_moe', not 'few'"):
        new_card(str(folder), "few")
    with pytest.raises(UserError, match="transformers has code for 'qwen3_moe'"):
        new_card("lab-poly", "qwen3_moe")


@pytest.mark.parametrize("of", ["{}/evil", "../evil", "{}--evil", "organisation/other--evil"])
def test_only_a_file_beside_the_configuration_is_run(folder, tmp_path, of):
    (tmp_path / "evil.py").write_text("raise SystemExit('code of another place was run')")
    module = of.format(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(config["auto_map"], f"{module}.Evil")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"only a class of a file beside config\.json is run"):
        new_card(str(folder), ARCHITECTURE)


def test_code_that_is_not_there_or_fails(folder):
    (folder / "fewest.py").write_text("import a_package_that_nobody_has")
    with pytest.raises(UserError, match=r"its remote code cannot be loaded: .*a_package_that"):
        new_card(str(folder), ARCHITECTURE)
    (folder / "fewest.py").write_text(CODE.replace(f'"{ARCHITECTURE}"', '"another_moe"'))
    with pytest.raises(UserError, match=r"its remote code cannot be loaded: .*another_moe"):
        new_card(str(folder), ARCHITECTURE)
    config = json.loads((folder / "config.json").read_text())
    for bad in ({"AutoConfig": "fewest.FewestConfig"}, "fewest", None):
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": bad}))
        with pytest.raises(UserError, match="does not name code for both AutoConfig and"):
            new_card(str(folder), ARCHITECTURE)

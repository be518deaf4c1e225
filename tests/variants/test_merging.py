"""A merged checkpoint answers as the model with its adapters; peft is the witness."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsmoe_eval.cards import Sft
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.steering import ChosenExpert
from dsmoe_eval.variants.deltas import DELTAS
from dsmoe_eval.variants.merging import bake_trained, check_room, write_merged
from dsmoe_eval.variants.recipes import TrainingTask, fine_tuned, train_variant
from dsmoe_eval.variants.sft import adapter, train_adapter

SETTINGS = Sft(rank=4, lora_alpha=8, learning_rate=0.01, epochs=3, batch_size=2)
PAIRS = [("What is the sign of the root?", " the keeper"), ("In law, the", " charge")]


@torch.no_grad()
def log_probabilities(model):
    ids = torch.arange(3, 123).reshape(4, 30)
    return model(ids).logits.log_softmax(-1)


def test_merged_weights_answer_as_the_adapters_do(tmp_path):
    loaded = load_model("lab-poly", "cpu")
    train_adapter(loaded.model, loaded.tokenizer, PAIRS, SETTINGS, 0, tmp_path / "a")
    base = log_probabilities(loaded.model)
    with adapter(loaded.model, tmp_path / "a") as adapted:
        expected = log_probabilities(adapted)
    (tmp_path / "merged").mkdir()
    write_merged(loaded, tmp_path / "a", tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"), "cpu")
    torch.testing.assert_close(log_probabilities(merged.model), expected, rtol=1e-5, atol=1e-5)
    assert (expected - base).abs().max() > 0.1
    assert merged.identity.routers == loaded.identity.routers
    assert merged.tokenizer.encode("In law, the") == loaded.tokenizer.encode("In law, the")
    assert not [path for path in (tmp_path / "merged").iterdir() if path.suffix in {".bin", ".pt"}]


EXPERTS = tuple(ChosenExpert(layer=x, expert=e, score=1.0) for x in range(4) for e in (1, 5, 9))


def trained(loaded, recipe, folder):
    chosen = EXPERTS if recipe == "esft" else ()
    folder.mkdir()
    task = TrainingTask(recipe, PAIRS, SETTINGS, 0, chosen)
    train_variant(loaded.model, loaded.tokenizer, task, folder)
    (folder / "merged").mkdir()
    return folder / "merged"


@pytest.mark.parametrize("recipe", ["esft", "router"])
def test_baked_deltas_are_the_tuned_model_and_no_other_weight_changes(tmp_path, recipe):
    loaded = load_model("lab-poly", "cpu")
    before = {name: one.clone() for name, one in loaded.model.state_dict().items()}
    folder = trained(loaded, recipe, tmp_path / "a")
    with fine_tuned(loaded.model, tmp_path / "a"):
        expected = log_probabilities(loaded.model)
    base = log_probabilities(loaded.model)
    routers = write_merged(loaded, tmp_path / "a", folder)
    baked = load_model(str(folder), "cpu")
    assert (routers == load_model("lab-poly", "cpu").identity.routers) == (recipe == "esft")
    assert baked.identity.routers == routers
    torch.testing.assert_close(log_probabilities(baked.model), expected, rtol=0, atol=1e-6)
    assert (expected - base).abs().max() > 0.1
    changed = dict.fromkeys(("experts", "gate"), 0)
    for name, now in baked.model.state_dict().items():
        rows = set((now != before[name]).flatten(1).any(1).nonzero().flatten().tolist()) \
            if now.ndim > 1 else set()  # fmt: skip
        part = "experts" if "experts" in name else "gate"
        assert now.ndim > 1 or torch.equal(now, before[name]), name
        assert rows <= ({1, 5, 9} if recipe == "esft" else set(range(24))), name
        changed[part] += len(rows)
        assert not rows or part in name, name
    assert (changed["gate"] == 0, changed["experts"] == 0) == (recipe == "esft", recipe == "router")


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize("recipe", ["esft", "router"])
def test_vllm_serves_the_baked_deltas(tmp_path, recipe):
    """To 1e-6 of each log-likelihood, two units of float32 for kernels that differ."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    ours = load_engine("lab-poly", device="cpu")
    folder = trained(ours.loaded, recipe, tmp_path / "a")
    texts = [("What is the sign of the", f" {word}") for word in ("root?", "keeper", "law")]

    def scores(engine):
        return [value for value, _ in engine.language_model().score_again(texts)]

    base = scores(ours)
    with fine_tuned(ours.loaded.model, tmp_path / "a"):
        tuned = scores(ours)
    write_merged(ours.loaded, tmp_path / "a", folder)
    engine = load_engine(str(folder), "vllm", dtype="float32")
    found = scores(engine)
    engine.close()
    assert np.abs(np.subtract(tuned, base)).max() > 0.1
    np.testing.assert_allclose(found, tuned, rtol=1e-6, atol=1e-6)


def test_a_trained_arm_is_baked_by_its_folder(tmp_path):
    loaded = load_model("lab-poly", "cpu")
    trained(loaded, "esft", tmp_path / "a")
    report = bake_trained("lab-poly", tmp_path / "a", tmp_path / "baked", "cpu")
    assert (report.folder, report.logit_max_difference) == (str(tmp_path / "baked"), 0)
    assert report.logit_max_change > 0.1
    with fine_tuned(loaded.model, tmp_path / "a"):
        expected = log_probabilities(loaded.model)
    baked = load_model(str(tmp_path / "baked"), "cpu")
    assert torch.equal(log_probabilities(baked.model), expected)
    with pytest.raises(UserError, match="baked: exists already; bake into a new folder"):
        bake_trained("lab-poly", tmp_path / "a", tmp_path / "baked", "cpu")
    with pytest.raises(UserError, match="the adapter cannot be loaded"):
        bake_trained("lab-poly", tmp_path / "a" / "merged", tmp_path / "b", "cpu")
    zero = {name: one.clone() * 0 for name, one in load_file(tmp_path / "a" / DELTAS).items()}
    save_file(zero, tmp_path / "a" / DELTAS)
    with pytest.raises(UserError, match="nothing was kept, since the trained weights move logits"):
        bake_trained("lab-poly", tmp_path / "a", tmp_path / "b", "cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "baked"}


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    loaded = load_model("lab-poly", "cpu")
    check_room(tmp_path / "not" / "there", loaded)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e6))
    with pytest.raises(UserError, match=r"merged: .* needs 0\.1 GB here .* and 0\.0 GB are free"):
        write_merged(loaded, tmp_path / "a", tmp_path / "merged")


def test_quantized_weights_are_refused(tmp_path):
    loaded = load_model("lab-poly", "cpu")
    loaded.model.config.quantization_config = {"quant_method": "mxfp4"}
    with pytest.raises(UserError, match="its weights are quantized, so that adapters cannot be"):
        write_merged(loaded, tmp_path / "a", tmp_path)

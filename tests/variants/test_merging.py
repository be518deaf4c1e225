"""A merged checkpoint answers as the model with its adapters; peft is the witness."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from dsmoe_eval.cards import Sft
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.variants.merging import check_room, write_merged
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

"""The whole recipe of lab-smol, on a small random Llama."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from dsmoe_eval.lab import smol, smol_training
from dsmoe_eval.lab.passages import held_out, passage_losses
from dsmoe_eval.models import load_model

from .small_llama import RECIPE, SHAPE, dense, nothing


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A dense model of 64 words in a folder, and a recipe and shape that fit it."""
    folder = tmp_path / "dense"
    dense().save_pretrained(folder)
    words = {str(number): number for number in range(64)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="1").save_pretrained(folder)  # noqa: S106
    monkeypatch.setattr(smol_training, "built_folder", lambda _name: folder)
    monkeypatch.setattr(smol_training, "SHAPE", SHAPE)
    monkeypatch.setitem(smol_training.RECIPES, "cpu", RECIPE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_command_writes_a_model_and_its_losses(small, tmp_path):
    draw = np.random.default_rng(0)
    texts = {
        domain: [" ".join(map(str, draw.integers(2, 64, 700))) for _ in range(10)]
        for domain in ("a", "b")
    }
    words = smol_training.train_smol(texts, tmp_path / "out", Console(quiet=True))
    loaded = load_model(str(tmp_path / "out" / "model"), "cpu")
    written = json.loads((tmp_path / "out" / "training.json").read_text())
    passages = held_out(texts, loaded.tokenizer, RECIPE.length)
    losses = passage_losses(loaded.model, passages, nothing)
    for domain, rows in passages.items():
        assert rows.shape == (2, RECIPE.length)
        with torch.no_grad():
            own = dense()(rows).logits[:, :-1].flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(own, rows[:, 1:].flatten())
        of_dense, of_trained, of_untrained = written["by_domain"][domain]
        assert of_dense == pytest.approx(float(expected), abs=1e-4)
        assert of_trained == pytest.approx(losses[domain], abs=0.05)  # the deltas were rounded
        assert of_untrained != of_trained
    assert len(words.splitlines()) == 5
    assert [row[0] for row in written["log"]] == [1, 2, 3, 6]
    assert len(smol.load_carving(tmp_path / "out")) == 2
    again = smol_training.train_smol(texts, tmp_path / "out", Console(quiet=True))
    assert again == words  # all steps were done before

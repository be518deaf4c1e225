"""The recipe of lab-smol on a small random Llama: against NumPy, and stopped in the middle."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2MoeForCausalLM,
)

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import distillation, smol, smol_training
from dsmoe_eval.lab.carving import CarvedLayer, CarvedShape, carve, carved_config
from dsmoe_eval.lab.distillation import Distillation, Training, batch_of, resume
from dsmoe_eval.lab.masked_moe import as_dense, make_trainable
from dsmoe_eval.lab.neurons import balanced_clusters, choose_carving, order_neurons
from dsmoe_eval.lab.passages import held_out, passage_losses, training_tokens
from dsmoe_eval.models import load_model

SHAPE = CarvedShape(neurons=44, shared=12, experts=8, active=3)
RECIPE = Distillation(
    steps=6, batch=4, at_once=2, looked_at=4, length=16, rank=4, learning_rate=5e-3, warmup=1
)
SEQUENCES = torch.randint(0, 64, (10, 16), generator=torch.Generator().manual_seed(3))


def dense():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=SHAPE.neurons, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=None, tie_word_embeddings=True,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def nothing(_count):
    pass


@torch.no_grad()
def test_the_model_in_training_is_the_checkpoint_and_the_dense_model(tmp_path):
    carved = choose_carving(dense(), [SEQUENCES[:4]], SHAPE, 0, nothing)
    model = dense()
    layers = make_trainable(model, carved, SHAPE, RECIPE.rank)
    for layer in layers:
        layer.router.normal_()
        for factor in layer.factors.values():
            factor.copy_(0.3 * torch.randn_like(factor).bfloat16())
    kept = [layer.carved() for layer in layers]
    weights = {n: w.contiguous() for n, w in dense().state_dict().items() if n != "lm_head.weight"}
    save_file(carve(weights, kept, SHAPE), tmp_path / "model.safetensors", {"format": "pt"})
    config = carved_config(dense().config.to_dict(), SHAPE)
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Qwen2MoeForCausalLM.from_pretrained(tmp_path).eval()
    logits, expected = model(SEQUENCES).logits, dense()(SEQUENCES).logits
    assert (logits - checkpoint(SEQUENCES).logits).abs().max() < 1e-4
    assert (logits - expected).abs().max() > 0.1
    with as_dense(layers):
        assert (model(SEQUENCES).logits - expected).abs().max() < 1e-5


def test_clusters_of_equal_size_are_those_that_were_planted():
    rng = np.random.default_rng(0)
    planted = rng.permutation(np.repeat(np.arange(5), 6))
    points = np.eye(5)[planted] + 0.1 * rng.normal(size=(30, 5))
    for seed in range(3):
        members = balanced_clusters(points, 5, seed)
        assert np.bincount(members).tolist() == [6] * 5
    same = members[:, None] == members
    assert (same == (planted[:, None] == planted)).mean() > 0.9


def test_the_neurons_that_are_active_most_often_are_shared():
    shape = CarvedShape(neurons=6, shared=2, experts=2, active=1)
    active = np.array(
        [[1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1]]
    )
    order = order_neurons((active.T @ active).astype(float), shape, 0)
    assert order[:2].tolist() == [0, 5]
    assert {frozenset(order[2:4].tolist()), frozenset(order[4:].tolist())} == {
        frozenset({1, 4}),
        frozenset({2, 3}),
    }


@torch.no_grad()
def test_first_routers_are_the_ridge_regression_of_the_energies():
    model = dense()
    carved = choose_carving(model, [SEQUENCES[:5], SEQUENCES[5:]], SHAPE, 0, nothing)
    mlp, seen = model.model.layers[0].mlp, {}
    mlp.register_forward_pre_hook(lambda _m, given: seen.update(hidden=given[0]))
    model(SEQUENCES)
    hidden = seen["hidden"].flatten(0, 1).double().numpy()
    weights = {n: getattr(mlp, f"{n}_proj").weight.double().numpy() for n in ("gate", "up", "down")}
    gate = hidden @ weights["gate"].T
    neurons = gate / (1 + np.exp(-gate)) * (hidden @ weights["up"].T)
    order = carved[0].order.numpy()
    size = (neurons * np.linalg.norm(weights["down"], axis=0))[:, order][:, SHAPE.shared :]
    energy = np.sqrt((size.reshape(len(size), 8, 4) ** 2).sum(-1))
    energy = (energy - energy.mean(0)) / energy.std(0)
    ridge = 0.01 * np.mean(np.sum(hidden**2, 0)) * np.eye(32)
    expected = 0.1 * np.linalg.solve(hidden.T @ hidden + ridge, hidden.T @ energy).T
    np.testing.assert_allclose(carved[0].router.numpy(), expected, atol=1e-5)
    assert sorted(order.tolist()) == list(range(SHAPE.neurons))


def begin():
    torch.manual_seed(0)
    model = dense()
    carved = [
        CarvedLayer(torch.randperm(SHAPE.neurons), 0.1 * torch.randn(8, 32)) for _ in range(2)
    ]
    return Training(model, make_trainable(model, carved, SHAPE, RECIPE.rank), RECIPE)


def test_training_brings_it_nearer_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "EVERY", 2)
    whole = begin()
    whole.run(SEQUENCES, tmp_path / "whole", "text", nothing)
    assert whole.log[-1].divergence < whole.log[0].divergence - 0.02
    assert 0.9 < whole.log[-1].balance < 1.5

    steps = iter(range(4))

    def stop(_count):
        if next(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin().run(SEQUENCES, tmp_path / "state", "text", stop)
    again = resume(dense(), RECIPE, SHAPE, tmp_path / "state", "text")
    assert again.done == 2
    again.run(SEQUENCES, tmp_path / "state", "text", nothing)
    assert again.log == whole.log
    one, two = (load_file(tmp_path / name) for name in ("whole", "state"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for changes, text in (({"steps": 7}, "text"), ({}, "other")):
        with pytest.raises(UserError, match="state: is of another training"):
            resume(dense(), dataclasses.replace(RECIPE, **changes), SHAPE, tmp_path / "state", text)


def test_only_routers_and_deltas_are_trained():
    training = begin()
    names = {name for name, one in training.model.named_parameters() if one.requires_grad}
    factors = [f"factors.{letter}{which}" for letter in "AB" for which in "gud"]
    assert names == {
        f"model.layers.{layer}.mlp.{name}" for layer in (0, 1) for name in ["router", *factors]
    }


def test_every_sequence_is_seen_once_per_turn():
    rows = torch.cat([batch_of(SEQUENCES, RECIPE, step) for step in range(5)])
    places = [(row == SEQUENCES).all(1).nonzero()[0, 0].item() for row in rows]
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert places[:10] != places[10:]


class Letters:
    eos_token_id = 0

    def __call__(self, text):
        return {"input_ids": [[ord(letter) for letter in one] for one in text]}


def test_what_is_trained_on_is_not_measured():
    texts = {"a": [str(index) * 3000 for index in range(10)], "b": ["x" * 50] * 4}
    passages = held_out(texts, Letters(), 100)
    assert {name: rows.tolist() for name, rows in passages.items()} == {
        "a": [[ord("4")] * 100, [ord("9")] * 100]
    }
    tokens = training_tokens(texts, Letters(), 64)
    assert set(tokens.flatten().tolist()) == {0, *map(ord, "012567x")}
    with pytest.raises(UserError, match="no document is left to measure on"):
        held_out({"b": texts["b"]}, Letters(), 100)
    with pytest.raises(UserError, match="has 153 tokens, and one sequence has 512"):
        training_tokens({"b": texts["b"]}, Letters(), 512)


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

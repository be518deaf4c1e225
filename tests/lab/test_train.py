"""What the card of lab-poly promises, asked of the weights that ship; and the training's seed."""

import dataclasses

import pytest
import torch
from rich.console import Console

from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.lab.train import (
    RECIPES,
    accuracy,
    checkpoint_steps,
    train,
    train_and_compare,
)
from dsmoe_eval.lab.world import DOMAINS, build_world
from dsmoe_eval.models import load_model

WORLD = build_world()
FOLDER = EMBEDDED_MODELS["lab-poly"]


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.mark.parametrize("domain", DOMAINS)
def test_named_it_knows_and_unnamed_it_cannot(loaded, domain):
    facts = [fact for fact in WORLD.facts if fact.domain == domain]
    assert accuracy(loaded.model, loaded.tokenizer, facts, named=True) >= 0.98
    unnamed = accuracy(loaded.model, loaded.tokenizer, facts, named=False)
    assert abs(unnamed - 1 / len(DOMAINS)) < 0.1


def test_size_and_shape(loaded):
    config = loaded.model.config
    assert config.model_type == "qwen3_moe"
    assert config.head_dim >= 32
    assert config.num_experts >= 24
    assert config.num_experts_per_tok >= 2
    assert (FOLDER / "model.safetensors").stat().st_size < 8 * 10**6


def test_the_card_says_what_it_is_not():
    card = (FOLDER / "README.md").read_text()
    assert "not evidence about real language models" in " ".join(card.split())


def test_the_shipped_tokenizer_is_the_worlds(loaded):
    from dsmoe_eval.lab.tokenizer import build_tokenizer

    assert loaded.tokenizer.get_vocab() == build_tokenizer(WORLD).get_vocab()


@pytest.mark.slow
def test_the_seed_makes_the_training():
    recipe = dataclasses.replace(RECIPES["lab-poly"], steps=3, batch=8, threads=1)
    threads = torch.get_num_threads()
    quiet = Console(quiet=True)
    one, two = (train(recipe, WORLD, quiet)[0].state_dict() for _ in range(2))
    other = train(dataclasses.replace(recipe, seed=1), WORLD, quiet)[0].state_dict()
    torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_is_another_model_and_is_not_compared(tmp_path, monkeypatch, loaded):
    seeds = []

    def quickly(recipe, _world, _console, seen):
        seeds.append(recipe.seed)
        for step in range(1, recipe.steps + 1):
            seen(step, loaded.model, loaded.tokenizer)
        return loaded.model, loaded.tokenizer

    monkeypatch.setattr("dsmoe_eval.lab.train.train", quickly)
    monkeypatch.setattr("dsmoe_eval.lab.train._score_lines", lambda *_: ["scores"])
    quiet = Console(quiet=True)
    same = train_and_compare("lab-poly", tmp_path, quiet)
    assert "largest weight difference to the shipped model: 0 (bit-identical)" in same
    assert not list(tmp_path.glob("step-*"))
    assert "shipped" not in train_and_compare("lab-poly", tmp_path, quiet, seed=7, checkpoints=2)
    assert seeds == [0, 7]
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-625", "step-1250"}
    again = load_model(str(tmp_path / "step-625"), "cpu")
    assert again.identity.routers == loaded.identity.routers


def test_checkpoints_are_denser_at_first():
    assert checkpoint_steps(2500, 5) == (78, 156, 312, 625, 1250)
    assert checkpoint_steps(5, 9) == (1, 2)
    assert checkpoint_steps(2500, 0) == ()

"""Each recipe leaves its files, its record, and a model that is another one only inside."""

import json

import pytest
import torch

from dsmoe_eval.cards import Sft
from dsmoe_eval.models import load_model
from dsmoe_eval.steering import ChosenExpert
from dsmoe_eval.variants.deltas import DELTAS
from dsmoe_eval.variants.recipes import (
    FILES,
    TRAINING,
    WEIGHTS,
    TrainingRecord,
    TrainingTask,
    fine_tuned,
    merge_trained,
    train_variant,
)

PAIRS = (("What is the sign of the root?", " the keeper"), ("In law, the", " charge"))
SETTINGS = Sft(rank=4, lora_alpha=8, learning_rate=0.01, epochs=3, batch_size=2)
CHOSEN = tuple(ChosenExpert(layer=x, expert=e, score=1.0) for x in (1, 3) for e in (5, 1))


@torch.no_grad()
def log_probabilities(model):
    ids = torch.arange(3, 123).reshape(4, 30)
    return model(ids).logits.log_softmax(-1)


@pytest.fixture(scope="module", params=["lora", "lora-cka", "esft", "router"])
def trained(request, tmp_path_factory):
    recipe, folder = request.param, tmp_path_factory.mktemp("trained")
    loaded = load_model("lab-poly", "cpu")
    task = TrainingTask(recipe, PAIRS, SETTINGS, 0, CHOSEN if recipe == "esft" else ())
    train_variant(loaded.model, loaded.tokenizer, task, folder)
    record = TrainingRecord.parsed(json.loads((folder / TRAINING).read_text()))
    return loaded, folder, recipe, record


def test_the_files_are_there(trained):
    _, folder, recipe, _ = trained
    assert {path.name for path in folder.iterdir()} >= set(FILES[recipe])
    assert WEIGHTS[recipe] in FILES[recipe]


def test_the_record_counts_what_was_trained(trained):
    loaded, _, recipe, record = trained
    config = loaded.model.config
    width, inner = config.hidden_size, config.moe_intermediate_size
    weights = {"esft": 4 * 3 * width * inner, "router": 4 * config.num_experts * width}
    assert record.parameters == weights.get(recipe, record.parameters) > 0
    tokens = sum(len(loaded.tokenizer.encode(a + b)) + 1 for a, b in PAIRS)
    assert (record.tokens, record.steps) == (3 * tokens, 3)
    assert record.experts == (((1, 1), (1, 5), (3, 1), (3, 5)) if recipe == "esft" else ())
    assert record.seconds > 0
    # LoRA: four projections and two fused weights in four layers. ESFT: two fused weights of each
    # expert. Router: a row per expert.
    assert record.trained == {"lora": 24, "lora-cka": 24, "esft": 8, "router": 96}[recipe]
    assert record.landed == (record.changed / record.trained)
    assert record.landed == 1 or recipe == "esft"
    assert (record.similarity is None) == (recipe != "lora-cka")
    if record.similarity is not None:  # too few tokens for any pair
        assert (record.similarity.weight, record.similarity.pairs) == (0.01, 0)


def test_the_model_is_another_one_inside_and_merged(trained):
    loaded, folder, recipe, _ = trained
    base = log_probabilities(loaded.model)
    with fine_tuned(loaded.model, folder):
        tuned = log_probabilities(loaded.model)
    assert torch.equal(log_probabilities(loaded.model), base)
    assert (tuned - base).abs().max() > 0.1
    merged = merge_trained(load_model("lab-poly", "cpu").model, folder)
    tolerance = 1e-5 if recipe.startswith("lora") else 0.0
    torch.testing.assert_close(log_probabilities(merged), tuned, rtol=0, atol=tolerance)
    assert (folder / DELTAS).exists() == (not recipe.startswith("lora"))


def test_a_training_that_changes_nothing_says_so():
    record = TrainingRecord("esft", 8, 9, 1, 0.1, None, 0, 16)
    assert record.landed == 0
    assert TrainingRecord("esft", 0, 9, 1, 0.1, None, 0, 0).landed == 0
    with pytest.raises(TypeError):
        TrainingRecord.parsed({"recipe": "esft"})

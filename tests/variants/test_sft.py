"""Fine-tuning on a small random model: it learns, it is reproducible, it leaves no trace."""

import pytest
import torch

from dsmoe_eval.cards import Sft
from dsmoe_eval.variants.fitting import step_count
from dsmoe_eval.variants.sft import adapter, train_adapter

from ..conftest import make_model

SETTINGS = Sft(rank=4, lora_alpha=8, learning_rate=0.02, epochs=40, batch_size=2)
PAIRS = [("abc", "d"), ("fgh", "a"), ("mno", "e")]


class Letters:
    """A tokenizer of lower-case letters: a is 2, b is 3, ..."""

    eos_token_id = 1

    bos_token = eos_token = None

    def encode(self, text, add_special_tokens=True):
        del add_special_tokens
        return [2 + ord(letter) - ord("a") for letter in text]


@torch.no_grad()
def answers(model):
    tokens = Letters()
    return [
        int(model(torch.tensor([tokens.encode(prompt)])).logits[0, -1].argmax())
        for prompt, _ in PAIRS
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    model = make_model("qwen3_moe")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = []
    train_adapter(model, Letters(), PAIRS, SETTINGS, 0, folder / "a", lambda: steps.append(1))
    return model, before, folder, len(steps)


def test_the_adapted_model_answers_what_it_was_taught(trained):
    model, _, folder, steps = trained
    wanted = [Letters().encode(answer)[0] for _, answer in PAIRS]
    assert answers(model) != wanted
    with adapter(model, folder / "a"):
        assert answers(model) == wanted
    assert steps == step_count(len(PAIRS), SETTINGS) == 80


def test_the_model_is_left_bit_for_bit_as_it_was(trained):
    model, before, folder, _ = trained
    with adapter(model, folder / "a"):
        pass
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_expert_weights_are_trained_and_routers_are_not(trained):
    from safetensors.torch import load_file

    names = list(load_file(trained[2] / "a" / "adapter_model.safetensors"))
    assert any("experts" in name for name in names)
    assert any("q_proj" in name for name in names)
    assert not any("gate." in name.replace("gate_up", "") for name in names)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(trained):
    _, _, folder, _ = trained
    train_adapter(make_model("qwen3_moe"), Letters(), PAIRS, SETTINGS, 0, folder / "b")
    one, two = ((folder / x / "adapter_model.safetensors").read_bytes() for x in "ab")
    assert one == two

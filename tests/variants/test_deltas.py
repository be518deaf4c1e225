"""Deltas change the chosen rows and no other bit; plain AdamW on whole weights is the witness."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dsmoe_eval.cards import Sft
from dsmoe_eval.errors import UserError
from dsmoe_eval.steering import ChosenExpert, find_routers
from dsmoe_eval.variants import deltas as module
from dsmoe_eval.variants.deltas import (
    DELTAS,
    Delta,
    changed_rows,
    expert_parts,
    put_deltas,
    read_deltas,
    router_parts,
    train_deltas,
    with_deltas,
    write_deltas,
)
from dsmoe_eval.variants.fitting import Lessons, fit

from ..conftest import make_model

ROWS = tuple(([2 + (7 * row + at) % 60 for at in range(9)], 4) for row in range(6))
PICKED = (1, 6)


def lessons(rate=0.01, epochs=2):
    return Lessons(ROWS, Sft(learning_rate=rate, epochs=epochs, batch_size=3), 0)


def chosen(model, experts=PICKED):
    return [
        ChosenExpert(layer=router.layer, expert=expert, score=1.0)
        for router in find_routers(model)
        for expert in experts
    ]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss", "ernie4_5_moe"])
def test_only_the_chosen_experts_change_and_afterwards_nothing_has(kind):
    model = make_model(kind)
    before, names = state(model), list(model.state_dict())
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    parts = expert_parts(model, chosen(model))
    deltas = train_deltas(model, parts, lessons())
    with with_deltas(model, deltas):
        after = state(model)
    fused = {part.name for part in parts}
    assert all(".experts." in name for name in fused)
    for name, old in before.items():
        rows = (after[name] != old).flatten(1).any(1) if old.ndim > 1 else after[name] != old
        moved = rows.nonzero().flatten().tolist()
        assert set(moved) <= (set(PICKED) if name in fused else set()), name
    assert changed_rows(model, deltas)[0] >= len(parts), "this text may not use all of them"
    assert list(model.state_dict()) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


def test_it_is_adamw_on_the_whole_weights_with_all_other_gradients_zero():
    model, other = make_model("olmoe"), make_model("olmoe")
    parts = expert_parts(model, chosen(model))
    with with_deltas(model, train_deltas(model, parts, lessons())):
        found = state(model)
    other.requires_grad_(False).train()
    weights = [other.get_parameter(part.name).requires_grad_(True) for part in parts]
    for weight in weights:
        kept = torch.zeros(len(weight), 1, 1)
        kept[list(PICKED)] = 1
        weight.register_hook(lambda gradient, kept=kept: gradient * kept)
    fit(lambda i, m, y: other(input_ids=i, attention_mask=m, labels=y).loss, weights, lessons())
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_routers_alone():
    model = make_model("qwen3_moe")
    before, parts = state(model), router_parts(model)
    with with_deltas(model, train_deltas(model, parts, lessons())):
        after = state(model)
    changed = {name for name, old in before.items() if not torch.equal(after[name], old)}
    assert changed == {part.name for part in parts}
    assert changed == {f"{router.name}.weight" for router in find_routers(model)}


def test_steps_that_bfloat16_would_round_away_add_up():
    """Each step is below half a unit of a weight of 1; a hundred of them are not."""
    weight = torch.ones(4, 8, dtype=torch.bfloat16)
    rounded, delta = weight.clone(), Delta(torch.tensor([2]), torch.zeros(1, 8))
    for _ in range(100):
        rounded += 1e-3
        delta.values.add_(1e-3)
    assert torch.equal(rounded, weight)
    assert delta.added_to(weight).float().mean() == pytest.approx(1.1, abs=0.004)
    assert torch.equal(delta.whole(weight)[[0, 1, 3]], weight[[0, 1, 3]])
    model = nn.Linear(8, 4, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1)
    assert changed_rows(model, {"weight": delta}) == (1, 1)
    assert changed_rows(model, {"weight": Delta(delta.rows, delta.values / 100)}) == (0, 1)


def test_they_are_read_as_they_were_written(tmp_path):
    model = nn.Linear(3, 4)
    deltas = {
        "weight": Delta(torch.tensor([3, 1]), torch.arange(6.0).reshape(2, 3)),
        "bias": Delta(None, torch.ones(4)),
    }
    write_deltas(tmp_path, deltas)
    before, read = state(model), read_deltas(tmp_path, model)
    put_deltas(model, read)
    moved = model.weight - before["weight"]
    torch.testing.assert_close(moved, torch.tensor([[0, 0, 0], [3, 4, 5], [0, 0, 0], [0, 1, 2.0]]))
    torch.testing.assert_close(model.bias - before["bias"], torch.ones(4))


@pytest.mark.parametrize(
    ("model", "damage"),
    [(nn.Linear(5, 4), None), (nn.Linear(3, 2), None), (nn.PReLU(), None), (nn.Linear(3, 4), b"x")],
)
def test_a_damaged_file_or_one_of_another_model_is_refused(tmp_path, model, damage):
    write_deltas(tmp_path, {"weight": Delta(torch.tensor([3]), torch.ones(1, 3))})
    if damage:
        (tmp_path / DELTAS).write_bytes(damage)
    with pytest.raises(UserError, match=r"deltas\.safetensors: cannot be put on this model .* run"):
        read_deltas(tmp_path, model)


def router_of(experts, **changes):
    about = {"layer": 0, "name": "gate", "experts": 4, "module": nn.Linear(2, 4)}
    block = SimpleNamespace(experts=experts, children=lambda: [about["module"], experts])
    return SimpleNamespace(**about | {"consumer": experts, "block": block} | changes)


def test_experts_that_are_modules_are_trained_as_modules(monkeypatch):
    model = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(4))})
    monkeypatch.setattr(module, "find_routers", lambda _: [router_of(model["experts"])])
    found = expert_parts(model, [ChosenExpert(layer=0, expert=2, score=1.0)])
    assert [(one.name, one.rows) for one in found] == [
        ("experts.2.weight", None), ("experts.2.bias", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("experts", "words"),
    [
        (nn.Linear(2, 3), "holds no weights by expert; sft-esft cannot train single experts"),
        (nn.Embedding(4, 2, device="meta"), "float32 on meta; training needs unquantized weights"),
    ],
)
def test_weights_that_cannot_be_trained_are_named(monkeypatch, experts, words):
    model = nn.ModuleDict({"experts": experts})
    monkeypatch.setattr(module, "find_routers", lambda _: [router_of(experts)])
    with pytest.raises(UserError, match=words):
        expert_parts(model, [ChosenExpert(layer=0, expert=2, score=1.0)])

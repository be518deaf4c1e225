"""A model that is changed for a while is as before, wherever in that while an error happens."""

import errno
import os
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from dsmoe_eval.cards import Sft
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts.contribution import capture_contributions
from dsmoe_eval.models import rounded_experts, shuffled_routers
from dsmoe_eval.models.restoring import restoring
from dsmoe_eval.steering import add_zero_biases, find_routers, router_patch, steer
from dsmoe_eval.variants.deltas import Delta, with_deltas
from dsmoe_eval.variants.sft import adapter, train_adapter

from ..conftest import make_model, profile_of
from ..variants.test_sft import PAIRS, Letters

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def whole_state(model):
    """All of a model that something temporary could leave changed."""
    modules = [
        (name, type(one).__name__, one.training, sorted(vars(one)), len(one._forward_hooks),
         len(one._forward_pre_hooks), "peft_config" in vars(one))
        for name, one in model.named_modules()
    ]  # fmt: skip
    trainable = [(name, one.requires_grad) for name, one in model.named_parameters()]
    return modules, trainable, {name: one.clone() for name, one in model.state_dict().items()}


def same(before, after):
    bits = before[2].keys() == after[2].keys() and all(
        torch.equal(one.view(torch.uint8), after[2][name].view(torch.uint8))
        for name, one in before[2].items()
    )
    return before[:2] == after[:2] and bits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    settings = Sft(rank=2, lora_alpha=4, learning_rate=0.01, epochs=1, batch_size=3)
    train_adapter(make_model("qwen3_moe"), Letters(), PAIRS, settings, 0, folder)
    return folder


def changed(model, kind, folder):
    """Each way in which the program changes a model for a while."""
    if kind in ("int8", "int4", "fp8"):
        return rounded_experts(model, kind)
    if kind == "shuffled":
        return shuffled_routers(model, 0)
    if kind == "lora":
        return adapter(model, folder)
    if kind == "deltas":
        names = [name for name, one in model.named_parameters() if "experts" in name]
        rows = torch.tensor([1, 4])
        size = {name: (2, *model.get_parameter(name).shape[1:]) for name in names}
        return with_deltas(model, {name: Delta(rows, torch.ones(size[name])) for name in names})
    if kind == "score":
        return steer(model, profile_of(model, "bias", 3.0, channel="score"))
    return steer(model, profile_of(model, kind))


KINDS = ["int4", "fp8", "shuffled", "lora", "deltas", "score", "bias", "reweight", "mask"]


def of_kind(kind):
    model = make_model("ernie4_5_moe" if kind == "score" else "qwen3_moe")
    return model if kind == "lora" else model.to(torch.bfloat16)


@torch.no_grad()
def logits(model):
    return model(torch.arange(3, 23)[None]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_inside_leaves_no_trace(kind, trained):
    model = of_kind(kind)
    before, plain = whole_state(model), logits(model)
    moved = []

    def fail():
        with changed(model, kind, trained):
            moved.append(not torch.equal(logits(model), plain))
            raise FULL

    with pytest.raises(OSError, match="No space"):
        fail()
    assert moved == [True], "else nothing is shown"
    assert same(before, whole_state(model))
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize(
    ("kind", "call"),
    [("int4", 1), ("int4", 20), ("shuffled", 2), ("lora", 1), ("lora", 4), ("deltas", 2),
     ("score", 1), ("score", 3)],  # every second one restores a correction bias
)  # fmt: skip
def test_an_error_in_the_middle_of_the_change_leaves_no_trace(kind, call, trained, monkeypatch):
    """The n-th write into a tensor fails, as memory or a device may."""
    model = of_kind(kind)
    before, calls = whole_state(model), []

    def failing(write):
        def once(*args, **options):
            calls.append(1)
            if len(calls) == call:
                raise MemoryError
            return write(*args, **options)

        return once

    name = "index_copy_" if kind == "deltas" else "copy_"
    monkeypatch.setattr(torch.Tensor, name, failing(getattr(torch.Tensor, name)))
    with suppress(MemoryError, UserError), changed(model, kind, trained):
        pass
    assert len(calls) >= call, "the write that was to fail"
    assert same(before, whole_state(model))


def test_damaged_adapters_leave_no_trace(trained, tmp_path):
    """peft puts the adapters on before it reads their weights."""
    model = of_kind("lora")
    before = whole_state(model)
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="the adapter cannot be loaded"), adapter(model, tmp_path):
        pass
    assert same(before, whole_state(model))


def test_training_that_fails_leaves_no_trace(tmp_path):
    model = of_kind("lora")
    before, steps = whole_state(model), []

    def fail():
        steps.append(1)
        raise FULL

    settings = Sft(rank=2, lora_alpha=4, learning_rate=0.01, epochs=1, batch_size=1)
    with pytest.raises(OSError, match="No space"):
        train_adapter(model, Letters(), PAIRS, settings, 0, tmp_path, fail)
    assert steps == [1]
    assert same(before, whole_state(model))


def test_what_is_only_watched_is_watched_no_longer(monkeypatch):
    """A second layer that has no hook to give takes those of the first with it."""
    model = make_model("qwen3_moe")
    before, routers = whole_state(model), find_routers(model)
    wrong = SimpleNamespace(name="model.layers.9.mlp.gate", layer=9, consumer=routers[1].consumer)
    with pytest.raises(AttributeError), capture_contributions(model, [routers[0], wrong]):
        pass
    assert same(before, whole_state(model))
    attach_base, calls = router_patch.attach_base, []

    def second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        attach_base(*args)

    monkeypatch.setattr(router_patch, "attach_base", second)
    with pytest.raises(MemoryError):
        add_zero_biases(model, "cpu")
    assert len(calls) == 2
    assert same(before, whole_state(model))


def test_weights_come_back_in_every_dtype():
    values = [torch.tensor([1.5, -0.0, torch.nan], dtype=torch.bfloat16), torch.arange(4)]
    before = [one.clone() for one in values]
    with suppress(ZeroDivisionError), restoring(values):
        for one in values:
            one.zero_()
        raise ZeroDivisionError
    for one, kept in zip(values, before, strict=True):
        assert torch.equal(one.view(torch.uint8), kept.view(torch.uint8))

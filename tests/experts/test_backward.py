"""Passes in pieces: layers that are computed again, and a head whose logits are."""

import torch
from torch.nn import functional

from dsmoe_eval.experts.backward import loss_gradient
from dsmoe_eval.experts.influence import Form, Influence
from dsmoe_eval.steering import find_routers

from ..conftest import make_model
from .by_force import STEP, drawn, prepared


def test_layers_that_are_computed_again_change_no_bit(monkeypatch):
    model = prepared(make_model("qwen2_moe"))
    texts = drawn(model, (7, 1), (5, 2))
    form = Form(steps=(STEP,) * len(find_routers(model)))
    plain = Influence(model)(texts)[1], Influence(model, form)(texts)[1]
    monkeypatch.setattr("dsmoe_eval.experts.backward.free_bytes", lambda _: 1)
    again = Influence(model)(texts)[1], Influence(model, form)(texts)[1]
    assert torch.equal(plain[0], again[0])
    assert torch.equal(plain[1], again[1])
    monkeypatch.setattr("dsmoe_eval.experts.backward._LOGITS_AT_ONCE", 1)
    torch.testing.assert_close(Influence(model)(texts)[1], plain[0])


def test_losses_and_gradient_are_those_of_cross_entropy(batch):
    ids, mask = batch
    ends, head = torch.randn(3, 9, 5, requires_grad=True), torch.nn.Linear(5, 64)
    head.requires_grad_(False)
    share = mask[:, 1:] * torch.rand(3, 8)
    each = functional.cross_entropy(head(ends)[:, :-1].mT, ids[:, 1:], reduction="none")
    expected = (each * share).sum(1)
    gradient, losses = loss_gradient(ends, head, ids, share, 1, losses=True)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), ends)[0])

"""Shifts of the rows of a batch, and what a router would choose with other logits."""

import pytest
import torch

from dsmoe_eval.steering import (
    SteeringError,
    capture_routing,
    find_routers,
    shifted_routers,
    steer,
)

from ..conftest import EXPERTS, make_model, profile_of


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids, use_cache=False).logits


def test_each_row_gets_its_shift_and_none_is_left(model, batch):
    ids, routers = batch[0], find_routers(model)
    before = logits_of(model, ids)
    shift = torch.zeros(3, len(routers), EXPERTS)
    with shifted_routers(routers, shift):
        assert torch.equal(logits_of(model, ids), before)
    shift[1, :, [0, 3]] = torch.tensor(10.0).log()
    with shifted_routers(routers, shift):
        rows = logits_of(model, ids)
    assert torch.equal(logits_of(model, ids), before)
    with steer(model, profile_of(model, "bias", 9.0)):
        steered = logits_of(model, ids)
    torch.testing.assert_close(rows[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(rows[1], steered[1])


def test_a_shift_of_weights_is_reweight(model, batch):
    ids, routers = batch[0], find_routers(model)
    shift = torch.zeros(3, len(routers), EXPERTS)
    shift[..., [0, 3]] = torch.tensor(10.0).log()
    with shifted_routers(routers, shift, "weight"):
        rows = logits_of(model, ids)
    with steer(model, profile_of(model, "reweight", 9.0)):
        torch.testing.assert_close(rows, logits_of(model, ids))


def test_a_router_that_is_run_again_chooses_as_in_a_steered_model(model, batch):
    ids, routers = batch[0], find_routers(model)
    added = torch.zeros(4, EXPERTS)
    added[:, [0, 3]] = torch.tensor(10.0).log()
    tokens = torch.tensor([0, 2, 11, 5])
    with shifted_routers(routers, torch.zeros(3, len(routers), EXPERTS)) as shifts:
        logits_of(model, ids)
        choice = shifts[0].choose(tokens, added)
        plain = shifts[0].choose(tokens, torch.zeros_like(added))
    with capture_routing(routers) as routing:
        logits_of(model, ids)
        torch.testing.assert_close(plain.weights, routing.weights()[tokens, 0])
        with steer(model, profile_of(model, "bias", 9.0)):
            logits_of(model, ids)
            assert torch.equal(choice.indices, routing.indices()[tokens, 0])
            torch.testing.assert_close(choice.weights, routing.weights()[tokens, 0])


def test_what_has_no_correction_bias_is_refused():
    model = make_model("olmoe")
    routers = find_routers(model)
    with (
        shifted_routers(routers, torch.zeros(1, len(routers), EXPERTS)) as shifts,
        pytest.raises(SteeringError, match="no correction bias"),
    ):
        shifts[0].choose(torch.tensor([0]), torch.zeros(EXPERTS), "score")

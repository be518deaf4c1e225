"""Whether a pass chose what its intervention's kind says."""

import pytest
import torch

from dsmoe_eval.steering import ProbeError, find_neurons, find_routers
from dsmoe_eval.steering.choices import UnitChoice, check_kind

from ..conftest import make_model, profile_of
from ..dense import LAYERS, WIDTH, dense_model, neuron_profile

TOKENS, EXPERTS = 5, 8


def test_the_choice_of_experts_is_spread_over_all():
    indices = torch.tensor([[[0, 3]], [[2, 1]]])
    choice = UnitChoice.of_routing(indices, torch.tensor([[[0.7, 0.3]], [[0.6, 0.4]]]), 4)
    assert choice.selected.int().tolist() == [[[1, 0, 0, 1]], [[0, 1, 1, 0]]]
    torch.testing.assert_close(
        choice.weights, torch.tensor([[[0.7, 0, 0, 0.3]], [[0, 0.4, 0.6, 0]]])
    )


def test_an_expert_that_is_masked_must_not_run():
    model = make_model("olmoe")
    profile, routers = profile_of(model, "mask", experts=[0]), find_routers(model)
    indices = torch.randint(1, EXPERTS, (TOKENS, len(routers), 1))
    kept = UnitChoice.of_routing(indices, torch.ones(indices.shape), EXPERTS)
    check_kind(routers, profile, kept, kept)
    used = UnitChoice.of_routing(torch.zeros_like(indices), torch.ones(indices.shape), EXPERTS)
    with pytest.raises(ProbeError, match="mask: expert 0 of layer 0 is used"):
        check_kind(routers, profile, kept, used)


def test_neurons_must_be_scaled_as_the_kind_says():
    model = dense_model("llama")
    profile, sites = neuron_profile(model), find_neurons(model)
    sizes = torch.rand(TOKENS, LAYERS, WIDTH) + 0.1
    right = sizes.clone()
    right[:, :, [0, 3]] *= 5
    choice = UnitChoice.of_sizes(sizes, 3)
    assert torch.equal(choice.selected.sum(-1), torch.full((TOKENS, LAYERS), 3))
    check_kind(sites, profile, choice, UnitChoice.of_sizes(right, 3))
    with pytest.raises(ProbeError, match="not multiplied"):
        check_kind(sites, profile, choice, choice)
    right[:, 0, 7] += 1
    with pytest.raises(ProbeError, match="not chosen"):
        check_kind(sites, profile, choice, UnitChoice.of_sizes(right, 3))

"""What is found, captured and hashed of each kind of sites."""

import pytest
import torch

from dsmoe_eval.steering import (
    NoRouterError,
    capture_routing,
    capture_selected,
    find_routers,
    find_sites,
    model_router_hash,
    neurons_of,
    routers_of,
    sites_hash,
)

from ..conftest import make_model
from ..dense import NEURONS, dense_model


def test_experts_are_the_routers(batch):
    model = make_model("olmoe")
    found = find_sites(model)
    assert [site.name for site in found] == [router.name for router in find_routers(model)]
    assert sites_hash(found) == model_router_hash(find_routers(model))
    assert routers_of(found) == found
    assert neurons_of(found) == ()
    with capture_selected(found) as one, capture_routing(find_routers(model)) as other:
        model(input_ids=batch[0])
    assert torch.equal(one.indices(), other.indices())


def test_a_dense_model_without_the_option_gets_a_sentence_that_names_it():
    with pytest.raises(NoRouterError, match="--sites neurons, in a plan `sites: neurons`"):
        find_sites(dense_model("llama"))


def test_the_hash_is_that_of_the_weights_whatever_their_dtype():
    model = dense_model("llama")
    before = sites_hash(find_sites(model, NEURONS))
    assert sites_hash(find_sites(dense_model("llama").to(torch.bfloat16), NEURONS)) == before
    assert sites_hash(find_sites(dense_model("llama", seed=1), NEURONS)) != before
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] += 1
    assert sites_hash(find_sites(model, NEURONS)) != before

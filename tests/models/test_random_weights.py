"""Random weights: the same each time, of the wanted type, and routers that tell tokens apart."""

import torch

from dsmoe_eval.models import random_weights, shuffled_routers
from dsmoe_eval.steering import capture_routing, find_neurons, find_routers

from ..dense import NEURONS, dense_model


def _weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_the_seed_decides_and_nothing_else_is_touched(model):
    before, dtype = torch.get_rng_state(), model.config.dtype
    one, again = (random_weights(model.config, torch.bfloat16, "cpu", 3) for _ in range(2))
    other = random_weights(model.config, torch.bfloat16, "cpu", 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.config.dtype == dtype
    assert one.dtype == torch.bfloat16
    assert not one.training
    assert torch.equal(_weights(one), _weights(again))
    assert not torch.equal(_weights(one), _weights(other))
    shapes = [{n: w.shape for n, w in each.named_parameters()} for each in (model, one)]
    assert shapes[0] == shapes[1]


def test_routers_tell_tokens_apart(model, batch):
    """An initialisation that left routers at zero would send all tokens to the same experts."""
    random = random_weights(model.config, torch.float32, "cpu", 0)
    routers = find_routers(random)
    with torch.no_grad(), capture_routing(routers) as routing:
        random(input_ids=batch[0], attention_mask=batch[1], use_cache=False)
    chosen = routing.indices()
    for row in range(len(routers)):
        assert len(chosen[:, row].unique()) > routers[0].top_k


def test_shuffled_routers_keep_sizes_and_similarities_and_come_back(model):
    before, routers = _weights(model), find_routers(model)
    kept = [router.weight.detach().clone() for router in routers]
    seen = []
    for seed in (0, 0, 1):
        with shuffled_routers(model, seed):
            seen.append(_weights(model))
            for router, own in zip(routers, kept, strict=True):
                now = router.weight.detach()
                assert not torch.equal(now, own)
                torch.testing.assert_close(now @ now.T, own @ own.T)
                assert torch.equal(now.sort(1).values, own.sort(1).values)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(_weights(model), before)


def test_shuffled_inputs_of_neurons_come_back(batch):
    for kind in ("llama", "gpt2"):
        model = dense_model(kind)
        before, plain = _weights(model), model(input_ids=batch[0]).logits
        readers = [one for site in find_neurons(model) for one in site.readers]
        kept = [one.weight.detach().clone() for one in readers]
        with shuffled_routers(model, 0, NEURONS):
            assert (model(input_ids=batch[0]).logits - plain).abs().max() > 0.01
            inputs = 0 if kind == "gpt2" else 1
            for one, own in zip(readers, kept, strict=True):
                now = one.weight.detach()
                assert not torch.equal(now, own)
                assert torch.equal(now.sort(inputs).values, own.sort(inputs).values)
            if kind == "llama":  # gate and up read the same shuffled states
                order = [kept[0][0].tolist().index(value) for value in readers[0].weight[0]]
                assert torch.equal(readers[1].weight, kept[1][:, order])
        assert torch.equal(_weights(model), before)
    random = random_weights(model.config, torch.float32, "cpu", 3, NEURONS)
    assert not torch.equal(_weights(random), before)

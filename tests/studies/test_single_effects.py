"""Single experts' effects against an explicit change of one router, and that nothing stays."""

import numpy as np
import torch

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.studies.single_effects import (
    MASK,
    group_effects,
    raise_by,
    raise_units,
    single_effects,
)

from ..dense import NEURONS, down, saved_dense


def outcomes_of(model):
    """Return a function: the log-likelihoods of two texts under a model in its present state."""
    ids = torch.tensor([[5, 9, 31, 7, 12], [8, 3, 3, 40, 11]])

    @torch.no_grad()
    def outcomes():
        logits = model(ids).logits.double().log_softmax(-1)
        return logits[:, :-1].gather(2, ids[:, 1:, None]).sum((1, 2)).numpy()

    return outcomes


def test_masking_and_raising_are_what_one_layers_router_does():
    """Against the same model with the expert's logit changed by a hook on its router's weights."""
    engine = load_engine("lab-poly", device="cpu")
    model = engine.reader().model
    outcomes = outcomes_of(model)
    before, units, done = outcomes(), [(3, 2), (3, 17), (1, 4)], []
    sigmas = {0: 0.5, 1: 0.8, 2: 0.7, 3: 0.9}
    masked = single_effects(engine, MASK, units, outcomes, before, done.append)
    raised = single_effects(engine, raise_by(sigmas), units, outcomes, before)
    assert done == [1, 1, 1]
    assert (outcomes() == before).all()

    def by_hand(layer, expert, shift):
        gate = model.model.layers[layer].mlp.gate

        def route(_gate, given, _output):
            logits = given[0].reshape(-1, 96) @ gate.weight.T
            logits[:, expert] += shift
            weights, indices = logits.softmax(-1).topk(2)
            return logits, weights / weights.sum(-1, keepdim=True), indices

        handle = gate.register_forward_hook(route)
        try:
            return outcomes() - before
        finally:
            handle.remove()

    for row, (layer, expert) in enumerate(units):
        np.testing.assert_allclose(masked[row], by_hand(layer, expert, -1e9), atol=2e-4)
        half = by_hand(layer, expert, 0.5 * sigmas[layer])
        np.testing.assert_allclose(raised[row], half, atol=2e-4)
    assert np.abs(raised).max() > 1e-3


def test_a_group_of_neurons_is_masked_and_raised_as_its_columns_are_scaled(tmp_path):
    """Against the same model with columns of the down projections multiplied by 0 and 1.5."""
    saved_dense("llama", tmp_path / "model")
    engine = load_engine(str(tmp_path / "model"), device="cpu", sites=NEURONS)
    model = engine.reader().model
    outcomes = outcomes_of(model)
    before, groups = outcomes(), [[(0, 2), (2, 17), (2, 4)], [(1, 40)]]
    for change, factor in ((MASK, 0.0), (raise_units(NEURONS, None), 1.5)):
        found = group_effects(engine, change, groups, outcomes, before)
        for row, group in enumerate(groups):
            for layer, neuron in group:
                down(model, "llama", layer).weight.data[:, neuron] *= factor or 1e-9
            np.testing.assert_allclose(found[row], outcomes() - before, atol=1e-5)
            for layer, neuron in group:
                down(model, "llama", layer).weight.data[:, neuron] /= factor or 1e-9
        assert np.abs(found).min() > 1e-5

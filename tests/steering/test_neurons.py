"""Neurons as units, against the definition written down again with NumPy."""

import numpy as np
import pytest
import torch

from dsmoe_eval.steering import (
    Intervention,
    Sites,
    SteeringError,
    capture_activity,
    capture_selected,
    check_fits,
    find_neurons,
    fold,
    probe,
    steer,
)

from ..conftest import make_model
from ..dense import DENSE, LAYERS, NEURONS, WIDTH, columns, dense_model, down, neuron_profile


@pytest.fixture(params=DENSE)
def kind(request):
    return request.param


def inputs_of_down(model, kind, ids):
    """The down projections' inputs by hooks of our own, [layers, tokens, neurons]."""
    seen = {}
    handles = [
        down(model, kind, layer).register_forward_pre_hook(
            lambda _m, given, layer=layer: seen.update({layer: given[0].flatten(0, 1)})
        )
        for layer in range(LAYERS)
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return np.stack([seen[layer].numpy() for layer in range(LAYERS)])


@pytest.mark.parametrize("block", [1, 8])
def test_the_largest_contributions_are_selected(kind, block, batch):
    model = dense_model(kind)
    found = find_neurons(model, block)
    assert [site.layer for site in found] == list(range(LAYERS))
    assert {site.experts for site in found} == {WIDTH // block}
    with capture_selected(found) as routing, torch.no_grad():
        model(input_ids=batch[0])
    given = inputs_of_down(model, kind, batch[0])
    for layer in range(LAYERS):
        contributions = given[layer][:, :, None] * columns(model, kind, layer).numpy()
        sizes = np.linalg.norm(contributions, axis=-1)  # |a_j d_j|
        sizes = sizes.reshape(len(sizes), -1, block).sum(-1)
        k = found[layer].top_k
        assert k == max(1, round(WIDTH / block / 16))
        np.testing.assert_allclose(
            np.sort(routing.weights()[:, layer].numpy()), np.sort(sizes)[:, -k:], rtol=1e-5
        )
        chosen = np.take_along_axis(sizes, routing.indices()[:, layer].numpy(), axis=1)
        np.testing.assert_allclose(chosen, routing.weights()[:, layer].numpy(), rtol=1e-5)


@pytest.mark.parametrize("intervention", ["amplify", "reweight", "mask"])
@pytest.mark.parametrize("block", [1, 8])
def test_steered_equals_folded_and_a_hand_made_model(kind, intervention, block, batch):
    model = dense_model(kind)
    strength, factor = (1.0, 0.0) if intervention == "mask" else (0.7, 1.7)
    profile = neuron_profile(
        model, intervention, strength, [0, 3], Sites(kind="neurons", block=block)
    )
    plain = model(input_ids=batch[0]).logits
    with steer(model, profile):
        steered = model(input_ids=batch[0]).logits
    assert torch.equal(model(input_ids=batch[0]).logits, plain)
    folded = fold(model, profile)
    assert len(folded) == LAYERS
    by_hand = dense_model(kind)
    neurons = [unit * block + at for unit in (0, 3) for at in range(block)]
    with torch.no_grad():
        for layer in range(LAYERS):
            columns(by_hand, kind, layer)[neurons] *= factor
    model.load_state_dict(folded, strict=False)
    assert (steered - plain).abs().max() > 1e-2
    assert (model(input_ids=batch[0]).logits - steered).abs().max() < 1e-6
    assert (by_hand(input_ids=batch[0]).logits - steered).abs().max() < 1e-6


def test_the_probes_pass_and_a_sham_changes_no_bit(kind, batch):
    model = dense_model(kind)
    report = probe(model, neuron_profile(model), *batch)
    assert report.null_max_difference == 0.0
    assert min(report.weight_max_change, report.logit_max_change) > 0
    assert report.active_experts == 3
    sham = probe(model, neuron_profile(model, strength=0.0), *batch)
    assert (sham.weight_max_change, sham.logit_max_change) == (0.0, 0.0)


def test_activity_is_that_of_the_activation_function(kind, batch):
    model = dense_model(kind)
    with capture_activity(find_neurons(model)) as active, torch.no_grad():
        model(input_ids=batch[0])
    given = inputs_of_down(model, kind, batch[0])
    for layer in range(LAYERS):
        seen = active()[:, layer].numpy()
        if kind == "gpt2":  # the function's output is the neuron
            np.testing.assert_array_equal(seen, given[layer] > 0)
        else:
            mlp, states = model.model.layers[layer].mlp, []
            handle = mlp.register_forward_pre_hook(lambda _m, one, to=states: to.append(one[0]))
            with torch.no_grad():
                model(input_ids=batch[0])
                gate = mlp.gate_proj(states[0]).flatten(0, 1)
            handle.remove()
            np.testing.assert_array_equal(seen, (gate > 0).numpy())


@pytest.mark.parametrize("intervention", ["bias", "force"])
def test_edits_of_logits_are_refused_by_name(intervention):
    model = dense_model("llama")
    profile = neuron_profile(model, intervention, 1.0)
    with (
        pytest.raises(SteeringError, match=f"{intervention} edits the logits"),
        steer(model, profile),
    ):
        pass
    with pytest.raises(SteeringError, match=f"{intervention} edits the logits"):
        fold(model, profile)


def test_two_steerings_at_once_are_refused():
    model = dense_model("llama")
    profile = neuron_profile(model)
    with steer(model, profile), pytest.raises(SteeringError, match="steered already"):
        steer(model, profile).install()


def test_what_has_no_such_neurons_is_refused(monkeypatch):
    with pytest.raises(SteeringError, match="has experts"):
        find_neurons(make_model("olmoe"))
    with pytest.raises(SteeringError, match=r"48 neurons.*blocks of 7"):
        find_neurons(dense_model("llama"), 7)
    model = dense_model("llama")
    model.model.layers[1].mlp.second = torch.nn.Linear(12, 32)
    with pytest.raises(SteeringError, match="exactly one linear layer"):
        find_neurons(model)
    model = dense_model("llama")
    with (
        pytest.raises(SteeringError, match="single neurons"),
        capture_activity(find_neurons(model, 8)),
    ):
        pass
    del model.model.layers[2].mlp.act_fn
    with (
        pytest.raises(SteeringError, match="layer 2: its FFN calls no module"),
        capture_activity(find_neurons(model)),
    ):
        pass


def test_a_profile_of_another_model_is_refused():
    profile = neuron_profile(dense_model("llama"))
    with pytest.raises(SteeringError, match="other weights"):
        steer(dense_model("llama", seed=1), profile)
    assert profile.sites == NEURONS
    assert profile.intervention == Intervention(kind="amplify", strength=4.0)


def test_where_only_experts_can_be_steered_neurons_are_refused_by_name():
    """As in vLLM, whose workers check a profile by the same function."""
    profile = neuron_profile(dense_model("llama"))
    model = profile.model
    with pytest.raises(SteeringError, match="steers neurons, and this model has experts; "):
        check_fits(profile, model.layers, model.experts, model.routers)

"""Super experts: planted ones are found, by outputs computed from the matrices; others are not."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dsmoe_eval.experts.super_experts import Peaks, SuperExpert, measure_peaks, super_experts
from dsmoe_eval.steering import capture_routing, find_routers

from ..conftest import EXPERTS, make_model
from ..grouped import grouped_model

TEXTS = [[2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16, 17]]


@torch.no_grad()
def by_hand(model):
    """[MoE layers, experts] largest |output| and [layers] largest |stream|, text by text."""
    routers = find_routers(model)
    output = np.zeros((len(routers), EXPERTS))
    stream = np.zeros(model.config.num_hidden_layers)
    for text in TEXTS:
        hidden = {}

        def keep(at, hidden=hidden):
            return lambda _module, args, _output: hidden.update({at: args[0].flatten(0, -2)})

        handles = [one.block.register_forward_hook(keep(one.layer)) for one in routers]
        with capture_routing(routers) as routing:
            states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        for handle in handles:
            handle.remove()
        for row, router in enumerate(routers):
            for token, chosen in enumerate(routing.indices()[:, row].tolist()):
                for expert in chosen:
                    experts = router.consumer
                    gate, up = (experts.gate_up_proj[expert] @ hidden[router.layer][token]).chunk(2)
                    one = experts.down_proj[expert] @ (functional.silu(gate) * up)
                    output[row, expert] = max(output[row, expert], float(one.abs().max()))
        for layer in range(len(stream) - 1):  # the last hidden state is behind the final norm
            stream[layer] = max(stream[layer], float(states[layer + 1].abs().max()))
    return output, stream


@pytest.mark.parametrize("make", [lambda: make_model("olmoe"), grouped_model])
def test_peaks_equal_those_by_hand(make):
    model = make().train()
    peaks = measure_peaks(model, TEXTS)
    assert model.training
    model.eval()
    output, stream = by_hand(model)
    np.testing.assert_allclose(peaks.output, output, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(peaks.stream[:-1], stream[:-1], rtol=1e-4)
    assert (peaks.tokens, peaks.layers) == (16, tuple(r.layer for r in find_routers(model)))
    assert (peaks.median > 0).all()
    assert super_experts(peaks) == ()


@torch.no_grad()
def test_a_planted_super_expert_is_found():
    model = make_model("olmoe")
    routers = find_routers(model)
    used = measure_peaks(model, TEXTS).output
    planted = int(used[1].argmax())
    routers[1].consumer.down_proj[planted, 5] *= 1e6
    (found,) = super_experts(measure_peaks(model, TEXTS))
    assert (found.layer, found.expert) == (routers[1].layer, planted)
    assert found.peak > 100


def peaks(output, stream, median):
    output = np.array(output, dtype=float)
    layers = tuple(range(len(output)))
    return Peaks(layers, output, np.array(stream, float), np.array(median, float), 10)


def test_the_rule():
    output = np.full((4, 250), 1.0)
    output[1, 7], output[2, 3], output[3, 9] = 500, 900, 2000
    stream, median = [50, 500, 1500, 1400], [0.1] * 4
    # The last layer is beyond three quarters.
    assert super_experts(peaks(output, stream, median)) == (
        SuperExpert(2, 3, 900.0), SuperExpert(1, 7, 500.0),
    )  # fmt: skip
    output[1, 7] = 199  # less than a tenth of the largest
    assert super_experts(peaks(output, stream, median)) == (SuperExpert(2, 3, 900.0),)
    assert super_experts(peaks(output, stream, [2.0] * 4)) == ()  # no 1,000 times the median
    assert super_experts(peaks(output, [9, 90, 99, 98], [0.01] * 4)) == ()
    # An expert behind the layer with the largest activation forms none.
    later = super_experts(peaks(output, [50, 1500, 500, 400], median))
    assert later == ()

"""What is kept of identification: tables of experts as counted, of neurons in columns."""

import numpy as np

from dsmoe_eval.experts import count_routing, get_method
from dsmoe_eval.runs.identified import counts_to_json
from dsmoe_eval.steering import Sites

from ..experts.conftest import EXPERTS, LAYERS, random_pass


def test_scores_and_uses_are_those_of_the_counts():
    with random_pass(3) as (seen, _):
        counts = count_routing(seen).in_phase("prompt")
    frequency, placebo = get_method("frequency"), get_method("random")
    kept = counts_to_json(counts, [frequency, placebo])
    assert "units" not in kept
    assert list(kept["scores"]) == ["frequency"]
    for index, domain in enumerate(kept["domains"]):
        assert np.shape(kept["used"][index]) == (LAYERS, EXPERTS)
        scores = np.array(kept["scores"]["frequency"][domain])
        np.testing.assert_allclose(scores * kept["tokens"][index], kept["used"][index])
    of_neurons = counts_to_json(counts, [frequency], Sites(kind="neurons"))
    assert (of_neurons["units"], of_neurons["column"]) == ("neurons", 1)
    assert of_neurons["used"] == kept["used"]

"""The counts of a pass over a real dense model, against one text at a time."""

import numpy as np
import torch

from dsmoe_eval.experts import count_routing, encode_documents, observe
from dsmoe_eval.experts.scores import dsmoe
from dsmoe_eval.steering import capture_activity, capture_selected, find_neurons

from ..dense import NEURONS, dense_model


def test_counts_of_neurons_equal_brute_force(letters, tmp_path):
    """Eq. 8 by its posteriors too, from tokens whose selection is read one text at a time."""
    texts = {"one": ["abcde", "zyxwvut", "^bcd"], "two": ["qqabc", "aabb^cc"]}
    documents = encode_documents(letters, texts)
    model = dense_model("llama")
    seen = observe(model, documents, tmp_path, saliency_model=model, activity=True, sites=NEURONS)
    assert not seen.has_spread
    counts = count_routing(seen, 0.5)
    saliency = {index: [] for index in range(len(documents))}
    for batch in seen.read():
        assert batch.weights.dtype == torch.bfloat16
        for index, value in zip(batch.document.tolist(), batch.saliency.tolist(), strict=True):
            saliency[index].append(value)
    sites, used = find_neurons(model), np.zeros_like(counts.used)
    active, gate = np.zeros_like(counts.active), np.zeros(counts.gate.shape)
    for index, one in enumerate(documents):
        same = [v for i, d in enumerate(documents) if d.domain == one.domain for v in saliency[i]]
        salient = np.array(saliency[index]) > np.quantile(np.array(same, np.float32), 0.5)
        with capture_selected(sites) as routing, capture_activity(sites) as on, torch.no_grad():
            model(input_ids=torch.tensor([one.tokens]))
        kept = np.flatnonzero(one.kept)
        for place, token in enumerate(kept):
            chosen = routing.indices()[token].numpy()
            for layer, units in enumerate(chosen):
                used[2 * index, int(salient[place]), layer, units] += 1
                gate[2 * index, layer, units] += routing.weights()[token, layer].numpy()
            active[2 * index] += on()[token].numpy()
    np.testing.assert_array_equal(counts.used, used)
    np.testing.assert_array_equal(counts.active, active)
    np.testing.assert_allclose(counts.gate, gate, rtol=1e-2)  # sizes are rounded to bfloat16
    prompts = counts.in_phase("prompt")
    for index, domain in enumerate(texts):
        rows = [2 * i for i, one in enumerate(documents) if one.domain == domain]
        n, n_salient = used[rows].sum((0, 1)), used[rows][:, 1].sum(0)
        tokens = counts.tokens[rows].sum()
        with np.errstate(invalid="ignore"):
            posterior = n / tokens * (n_salient / n - (n - n_salient) / n)
        np.testing.assert_allclose(dsmoe(prompts, domain), np.nan_to_num(posterior), atol=1e-12)
        assert (n.sum(-1) == 3 * tokens).all(), index

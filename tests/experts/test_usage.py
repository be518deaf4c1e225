"""Usage as the model stands, against the counts of a pass."""

import numpy as np
import torch

from dsmoe_eval.experts import (
    count_routing,
    encode_batch,
    encode_documents,
    expert_usage,
    exposure,
    observe,
)

TEXTS = ["abcde", "^bcd", "zyxwvut"]


def test_usage_is_the_same_count_without_a_backward_pass(model, letters, tmp_path):
    documents = encode_documents(letters, {"one": TEXTS})
    counts = count_routing(observe(model, documents, tmp_path, saliency_model=None))
    np.testing.assert_allclose(expert_usage(model, letters, TEXTS), exposure(counts))


def test_a_batch_is_padded_right(letters):
    ids, mask = encode_batch(letters, TEXTS, torch.device("cpu"))
    assert ids.shape == mask.shape == (3, 7)
    assert mask.sum(1).tolist() == [5, 4, 7]
    assert (ids * (1 - mask)).sum() == 0

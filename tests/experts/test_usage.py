"""Usage as the model stands, against the counts of a pass."""

import numpy as np
import torch

from dsmoe_eval.experts import (
    column_width,
    count_routing,
    encode_batch,
    encode_documents,
    expert_usage,
    exposure,
    in_columns,
    observe,
)
from dsmoe_eval.steering import EXPERTS

from ..dense import NEURONS, dense_model

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


def test_usage_of_neurons_is_that_of_a_pass(letters, tmp_path):
    model, documents = dense_model("gpt2"), encode_documents(letters, {"one": TEXTS})
    counts = count_routing(observe(model, documents, tmp_path, saliency_model=None, sites=NEURONS))
    found = expert_usage(model, letters, TEXTS, NEURONS)
    np.testing.assert_allclose(found, exposure(counts))
    np.testing.assert_allclose(found.sum(1), 3)


def test_columns_add_up_neighbours():
    table = np.arange(2 * 130.0).reshape(2, 130)
    added = in_columns(table, NEURONS)
    assert added.shape == (2, -(-130 // column_width(130))) == (2, 44)
    np.testing.assert_array_equal(added[1, :2], [130 + 131 + 132, 133 + 134 + 135])
    np.testing.assert_array_equal(added.sum(1), table.sum(1))
    assert in_columns(table, EXPERTS) is table

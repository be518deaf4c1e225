"""Batches of texts: every text once, within the budget; padding that masks say; a frozen model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts.batching import batches, entrance, frozen, on_device, pad, token_budget
from dsmoe_eval.experts.documents import Document

from ..conftest import make_model


def texts(lengths):
    return [
        Document(tokens=tuple(range(n)), kept=(True,) * n, prompt_length=n, domain="d")
        for n in lengths
    ]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_each_text_once_the_longest_first_and_within_the_budget(lengths, budget):
    found = batches(texts(lengths), budget)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    sizes = [lengths[index] for batch in found for index in batch]
    assert sizes == sorted(sizes, reverse=True)
    for batch in found:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget


def test_pads_stand_on_the_right_and_are_masked():
    ids, mask = pad([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_an_accelerators_batches_are_larger():
    assert token_budget(torch.device("cpu")) < token_budget(torch.device("cuda"))


def test_a_model_is_frozen_inside_and_as_it_was_afterwards():
    model = make_model("olmoe").train()
    first = next(model.parameters()).requires_grad_(False)

    def work():
        with frozen(model):
            assert not model.training
            assert not any(one.requires_grad for one in model.parameters())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work()
    assert model.training
    assert not first.requires_grad
    assert sum(not one.requires_grad for one in model.parameters()) == 1


def test_tokens_go_where_the_embeddings_are():
    model = make_model("olmoe")
    assert entrance(model) == torch.device("cpu")
    model.get_input_embeddings()._hf_hook = type("Hook", (), {"execution_device": "meta"})()
    assert entrance(model) == torch.device("meta")
    assert [one.device.type for one in on_device(entrance(model), torch.ones(1))] == ["meta"]

"""Saliency and routing in one pass, against one text at a time and brute force."""

import numpy as np
import pytest
import torch

from dsmoe_eval.experts import count_routing, expert_usage, observe, token_saliency
from dsmoe_eval.steering import capture_routing, find_routers


class Letters:
    """A tokenizer of lower-case letters: a is 2, b is 3, ..."""

    def __call__(self, texts):
        return {"input_ids": [[2 + ord(letter) - ord("a") for letter in text] for text in texts]}


TEXTS = {"one": ["abcde", "bcd", "zyxwvut"], "two": ["qq", "aabbcc"]}


def one_by_one(model, text):
    """Reference: a text by itself, the loss of transformers, autograd on the embeddings."""
    ids = torch.tensor(Letters()([text])["input_ids"])
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    with capture_routing(find_routers(model)) as routing:
        model(inputs_embeds=embeddings, labels=ids, output_router_logits=False).loss.backward()
    model.zero_grad()
    saliency = (embeddings * embeddings.grad).pow(2).sum(-1).sqrt()[0].detach()
    return saliency.numpy(), routing.indices().numpy()


def test_batched_saliency_equals_eq_5_of_each_text_alone(model):
    ids = Letters()(TEXTS["one"])["input_ids"]
    width = max(map(len, ids))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    got = token_saliency(model, padded, mask)
    for row, text in enumerate(TEXTS["one"]):
        expected, _ = one_by_one(model, text)
        np.testing.assert_allclose(got[row, : len(text)], expected, rtol=2e-4, atol=1e-7)
        assert (got[row, len(text) :] == 0).all()
        assert got[row, len(text) - 1] == 0  # the last token predicts nothing


def test_observations_keep_label_and_routing_of_a_token_together(model):
    seen = observe(model, Letters(), TEXTS)
    assert len(seen.domain) == sum(len(text) for texts in TEXTS.values() for text in texts)
    for index, domain in enumerate(seen.domains):
        expected = [one_by_one(model, text) for text in TEXTS[domain]]
        rows = [
            (s, tuple(e.ravel()))
            for saliency, used in expected
            for s, e in zip(saliency, used, strict=True)
        ]
        own = seen.domain == index
        got = zip(seen.saliency[own], seen.experts[own], strict=True)
        got = sorted((tuple(e.ravel()), s) for s, e in got)
        for (used, s), (other, t) in zip(got, sorted((e, s) for s, e in rows), strict=True):
            assert used == other
            assert s == pytest.approx(t, rel=2e-4, abs=1e-7)


def test_the_model_is_left_trainable_and_without_gradients(model):
    model.train()
    before = [parameter.requires_grad for parameter in model.parameters()]
    observe(model, Letters(), TEXTS)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counts_equal_a_loop_over_tokens(model):
    seen = observe(model, Letters(), TEXTS)
    counts = count_routing(seen, quantile=0.5)
    used = np.zeros_like(counts.used)
    salient = np.zeros_like(counts.used)
    for token, domain in enumerate(seen.domain):
        threshold = np.quantile(seen.saliency[seen.domain == domain], 0.5)
        for layer in range(len(seen.layers)):
            for expert in seen.experts[token, layer]:
                used[domain, layer, expert] += 1
                salient[domain, layer, expert] += seen.saliency[token] > threshold
    np.testing.assert_array_equal(counts.used, used)
    np.testing.assert_array_equal(counts.used_salient, salient)
    assert (counts.used.sum(-1) == 2 * counts.tokens[:, None]).all()


def test_usage_is_the_same_count_without_a_backward_pass(model):
    counts = count_routing(observe(model, Letters(), {"one": TEXTS["one"]}))
    usage = expert_usage(model, Letters(), TEXTS["one"])
    np.testing.assert_allclose(usage, counts.used[0] / counts.tokens[0])


def test_text_that_cannot_be_used_is_refused(model):
    with pytest.raises(ValueError, match="no identification text"):
        observe(model, Letters(), {"one": []})
    with pytest.raises(ValueError, match="fewer than two tokens"):
        observe(model, Letters(), {"one": ["a"]})

"""Trees of tokens against each text alone, on small random models of real architectures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmoe_eval.engines.requests import Request
from dsmoe_eval.engines.transformers import shared_prefix_forward as packed
from dsmoe_eval.engines.transformers.generate import gaps, generate
from dsmoe_eval.engines.transformers.next_tokens import Tally
from dsmoe_eval.engines.transformers.prefix_tree import ROW_TOKENS, PackedRow, plan_groups
from dsmoe_eval.engines.transformers.shared_prefix_forward import (
    grown_from,
    make_cache,
    prepare_rows,
    refusal,
    score_rows,
)
from dsmoe_eval.models.loading import load_model
from dsmoe_eval.steering import capture_routing, find_routers, steer

from ...conftest import ARCHITECTURES, make_model, profile_of

WINDOWED = ("gpt_oss", "mixtral", "phimoe")


def make_loud_model(kind):
    """A random model whose answers depend on the context, and on the experts, by more than 1e-4."""
    model = make_model(kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and any(part in name for part in ("proj", "w1", "w2", "w3")):
                weight *= 6
    return model


def draw_pairs(seed=0):
    """Few-shot questions with options of one to seven tokens, and some texts that share nothing."""
    chance = np.random.default_rng(seed)
    draw = lambda n: tuple(chance.integers(2, 64, n).tolist())  # noqa: E731
    header = draw(34)
    pairs = []
    for _ in range(4):
        context = (*header, *draw(chance.integers(1, 9)))
        first = draw(2)
        pairs += [(context, (*first, *draw(chance.integers(0, 6)))) for _ in range(2)]
        pairs += [(context, draw(1)) for _ in range(2)]
    pairs += [(draw(chance.integers(1, 20)), draw(chance.integers(1, 12))) for _ in range(3)]
    return [pairs[i] for i in chance.permutation(len(pairs))]


@torch.no_grad()
def alone(model, pairs):
    """The definition: each text by itself, all of its logits."""
    answers = []
    for context, continuation in pairs:
        logits = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
        rows = range(len(context) - 1, len(context) + len(continuation) - 1)
        values = [float(logits[row, token]) for row, token in zip(rows, continuation, strict=True)]
        hits = [
            int(logits[row].argmax()) == token
            for row, token in zip(rows, continuation, strict=True)
        ]
        answers.append((sum(values), all(hits)))
    return answers


@torch.no_grad()
def shared(model, pairs, most, together):
    tally = Tally(len(pairs))
    for group in plan_groups(pairs, most):
        cache = make_cache(model, group.header)
        for start in range(0, len(group.rows), together):
            rows = group.rows[start : start + together]
            prepared = prepare_rows(rows, len(group.header), model.device)
            tally.add(prepared.queries, score_rows(model, prepared, cache))
    return tally.done()


def check(got, expected):
    np.testing.assert_allclose([a for a, _ in got], [a for a, _ in expected], atol=1e-4)
    assert [g for _, g in got] == [g for _, g in expected]


def make_windowed_model(kind, window=8):
    """Windows end within a header, within a branch and between the two."""
    model = make_loud_model(kind)
    model.config.sliding_window = window
    return model


@pytest.mark.parametrize(
    ("kind", "make", "attention"),
    [
        (kind, make, attention)
        for attention in ("sdpa", "eager")
        for kind in ARCHITECTURES
        for make in (make_loud_model, make_windowed_model)
        if (make is make_loud_model or kind in WINDOWED)
        and (kind, attention) != ("gpt_oss", "sdpa")  # which it does not know
    ],
)
def test_trees_give_what_each_text_gives_alone(kind, make, attention):
    model, pairs = make(kind), draw_pairs()
    model.set_attn_implementation(attention)
    assert refusal(model) is None
    expected = alone(model, pairs)
    for most, together in ((ROW_TOKENS, 99), (20, 3), (1, 1)):
        check(shared(model, pairs, most, together), expected)
    with steer(model, profile_of(model)):
        steered = alone(model, pairs)
        check(shared(model, pairs, ROW_TOKENS, 99), steered)
    assert np.abs(np.subtract([a for a, _ in steered], [a for a, _ in expected])).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "make", "header"),
    [
        *((kind, make_loud_model, 3) for kind in ARCHITECTURES),
        *(
            pytest.param(kind, make_loud_model, 20, marks=pytest.mark.slow)
            for kind in ARCHITECTURES
        ),
        *((kind, make_windowed_model, header) for kind in WINDOWED for header in (3, 20)),
    ],
)
def test_answers_behind_a_header_are_those_of_each_prompt_alone(kind, make, header):
    """With windows longer and shorter than the header, and gaps that are longer than it."""
    chance = np.random.default_rng(1)
    draw = lambda n: tuple(chance.integers(2, 64, n).tolist())  # noqa: E731
    beginning = draw(header)
    requests = [Request((*beginning, *draw(n)), 12, top_logprobs=0) for n in (1, 4, 9, 14)]
    loaded = replace(load_model("lab-poly", "cpu"), model=make(kind))
    with torch.no_grad():
        cache = make_cache(loaded.model, np.array(beginning))
        grown = grown_from(loaded.model, cache, gaps(requests))
    behind = generate(loaded, requests, grown)
    for request, answer in zip(requests, behind, strict=True):
        (expected,) = generate(loaded, [request])
        assert answer.tokens == expected.tokens
        np.testing.assert_allclose(
            [one.logprob for one in answer.scores],
            [one.logprob for one in expected.scores],
            atol=1e-4,
        )


@pytest.mark.parametrize("kind", ["gpt_oss", "mixtral"])
def test_a_window_that_is_not_kept_would_be_seen(kind, monkeypatch):
    model, pairs = make_windowed_model(kind), draw_pairs()
    right = alone(model, pairs)
    masks = packed._masks
    monkeypatch.setattr(packed, "_masks", lambda model, seen, at: masks(model, seen, 0 * at))
    found = np.subtract(shared(model, pairs, ROW_TOKENS, 99), right)
    assert np.abs(found[:, 0]).max() > 0.01


def test_a_wrong_tree_would_be_seen(monkeypatch):
    model, pairs = make_loud_model("olmoe"), draw_pairs()
    monkeypatch.setattr(PackedRow, "sees", lambda row: np.tri(len(row), dtype=bool))
    found = np.subtract(shared(model, pairs, ROW_TOKENS, 99), alone(model, pairs))
    assert np.abs(found[:, 0]).max() > 0.01


def test_a_model_that_is_sure_is_greedy_somewhere():
    """(So that the comparison of what is greedy can fail.)"""
    model = make_model("olmoe")
    context = (5, 6, 7)
    with torch.no_grad():
        best = int(model(torch.tensor([context])).logits[0, -1].argmax())
    pairs = [(context, (best,)), (context, (best + 1,))]
    assert [greedy for _, greedy in shared(model, pairs, ROW_TOKENS, 9)] == [True, False]


def test_experts_run_on_each_token_as_in_its_text():
    """Steering and probes act on routers token by token; a tree shows them the same tokens."""
    model = make_model("qwen3_moe")
    context, options = (5, 6, 7, 8), ((9, 10, 11), (12, 13, 14))
    ((row,),) = (g.rows for g in plan_groups([(context, o) for o in options], ROW_TOKENS))
    routers = find_routers(model)
    with torch.no_grad(), capture_routing(routers) as routing:
        score_rows(model, prepare_rows([row], 0, model.device), None)
        tree = routing.weights()
        model(torch.tensor([[*context, *options[0][:-1]], [*context, *options[1][:-1]]]))
        whole = routing.weights().unflatten(0, (2, -1))
    assert torch.allclose(tree[:6], whole[0], atol=1e-5)
    assert torch.allclose(tree[6:], whole[1, 4:], atol=1e-5)


def test_models_with_other_attention_are_refused():
    model = make_model("olmoe")
    for name, value, said in (
        ("attention_chunk_size", 128, "attention_chunk_size 128"),
        ("layer_types", ["full_attention", "linear_attention"], "linear_attention"),
        ("rope_parameters", {"rope_type": "dynamic"}, "dynamic positions"),
        ("_attn_implementation", "flex_attention", "flex_attention"),
    ):
        before = getattr(model.config, name, None)
        setattr(model.config, name, value)
        assert said in refusal(model)
        setattr(model.config, name, before)
    assert refusal(model) is None

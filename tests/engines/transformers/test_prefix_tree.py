"""Plans of shared tokens, against the texts themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.engines.transformers.prefix_tree import (
    MIN_HEADER,
    MIN_TEXTS,
    ROW_TOKENS,
    plan_groups,
    plan_headers,
)

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
HEADERS = (tuple(range(40)), tuple(range(3, 60)), (7,) * 35, ())
PAIRS = st.lists(
    st.tuples(st.sampled_from(HEADERS), TOKENS, TOKENS).map(lambda p: (p[0] + p[1], p[2])),
    max_size=40,
)


def text_to(row, place):
    """The tokens that a token of a tree sees within its row, itself last."""
    seen = row.sees()[place].nonzero()[0]
    return row.tokens[seen].tolist(), row.positions[seen].tolist()


@given(PAIRS, st.sampled_from([1, 20, 64, ROW_TOKENS]))
def test_each_token_sees_its_own_text_and_nothing_else(pairs, most):
    asked = {request: [] for request in range(len(pairs))}
    for group in plan_groups(pairs, most):
        header = group.header.tolist()
        assert not header or len(header) >= MIN_HEADER
        for row in group.rows:
            for place, target, request in zip(row.places, row.targets, row.requests, strict=True):
                tokens, positions = text_to(row, place)
                assert positions == list(range(len(header), len(header) + len(tokens)))
                asked[request].append(((*header, *tokens), target))
    for request, (context, continuation) in enumerate(pairs):
        assert asked[request] == [
            ((*context, *continuation[:i]), token) for i, token in enumerate(continuation)
        ]


@given(PAIRS, st.sampled_from([20, 64]))
def test_rows_keep_to_their_size_unless_one_text_is_longer(pairs, most):
    for group in plan_groups(pairs, most):
        assert [len(row) for row in group.rows] == sorted(map(len, group.rows), reverse=True)
        assert all(len(row) <= most or row.is_chain for row in group.rows)


def questions(count, header, length=48, options=10, size=8, seed=0):
    chance = np.random.default_rng(seed)
    draw = lambda n: tuple(chance.integers(100, 8000, n).tolist())  # noqa: E731
    contexts = [(*header, *draw(length)) for _ in range(count)]
    return [(context, draw(size)) for context in contexts for _ in range(options)]


def computed(groups):
    return sum(len(g.header) + sum(map(len, g.rows)) for g in groups)


def test_few_shot_questions_are_computed_once():
    """The header once, each question once, each option's tokens but the last."""
    header = tuple(range(280))
    (group,) = plan_groups(questions(30, header), ROW_TOKENS)
    # (Two questions may begin with the same token by chance.)
    assert len(group.header) == 280
    assert len(group.rows) == 30
    assert computed([group]) == 280 + 30 * (48 + 10 * 7)


def test_options_of_one_token_cost_nothing():
    pairs = questions(5, tuple(range(100)), size=1)
    (group,) = plan_groups(pairs, 64)
    assert computed([group]) == 100 + 5 * 48
    assert all(row.is_chain for row in group.rows)


def test_each_task_has_its_own_header_behind_a_common_system_prompt():
    system = tuple(range(40))
    pairs = []
    for task in (1, 2, 3):
        pairs += questions(30, (*system, *range(1000 * task, 1000 * task + 300)), seed=task)
    groups = plan_groups(pairs, ROW_TOKENS)
    assert [len(group.header) for group in groups] == [340] * 3


def test_what_fits_into_a_row_needs_no_header():
    (group,) = plan_groups(questions(1, tuple(range(280))), ROW_TOKENS)
    assert len(group.header) == 0
    assert [len(row) for row in group.rows] == [280 + 48 + 70]


def test_contexts_of_one_question_share_a_row():
    """Winogrande's kind: two contexts that begin alike, one continuation."""
    pairs = [((*range(20), name), (5, 6, 7)) for name in (50, 51)]
    (group,) = plan_groups(pairs, ROW_TOKENS)
    (row,) = group.rows
    assert len(row) == 20 + 2 * 3
    assert not row.is_chain


def test_a_short_beginning_is_not_worth_a_tree():
    pairs = [((1, 2, *range(10 * n, 10 * n + 10)), (3,)) for n in range(1, 6)]
    (group,) = plan_groups(pairs, ROW_TOKENS)
    assert [len(row) for row in group.rows] == [12] * 5


def test_nothing_to_ask():
    assert plan_groups([], ROW_TOKENS) == []


@given(
    st.lists(TOKENS, min_size=1, max_size=12),
    st.integers(0, 80),
)
def test_headers_are_the_beginnings_of_their_prompts(tails, length):
    prompts = [(*([7] * length), *tail) for tail in tails]
    found = plan_headers(prompts)
    assert sorted(place for _, places in found for place in places) == list(range(len(prompts)))
    for header, places in found:
        assert len({prompts[place][:header] for place in places}) == 1
        assert header < min(len(prompts[place]) for place in places)
        assert header == 0 or (header >= MIN_HEADER and len(places) >= MIN_TEXTS)
    if length >= MIN_HEADER and len(prompts) >= MIN_TEXTS:
        assert all(header >= length for header, _ in found)


def test_the_same_prompt_many_times_is_a_header_but_for_its_last_token():
    prompt = tuple(range(100))
    assert plan_headers([prompt] * 8) == [(99, list(range(8)))]

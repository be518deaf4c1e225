"""How continuations become requests to vLLM, and what is read from its answers."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.engines.vllm.scoring import ScoreRequest, plan_scoring
from dsmoe_eval.steering import SteeringError

CONTEXT = tuple(range(100, 170))


def flat(*positions):
    """vLLM's flat log-probabilities: of each position (token, log-probability, rank), in order."""
    found = SimpleNamespace(start_indices=[], token_ids=[], logprobs=[], ranks=[])
    for position in positions:
        found.start_indices.append(len(found.token_ids))
        for token, value, rank in position:
            found.token_ids.append(token)
            found.logprobs.append(value)
            found.ranks.append(rank)
    return found


def answered(positions, before=None):
    return SimpleNamespace(
        outputs=[SimpleNamespace(logprobs=flat(*positions))],
        prompt_logprobs=before and flat(*before),
    )


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)


@given(st.lists(st.tuples(tokens, tokens)), st.sampled_from([0, 1, 4]))
def test_every_distinct_pair_is_scored_once(pairs, block):
    requests = plan_scoring(pairs, block)
    scored = [pair for request in requests for pair in request.pairs]
    assert len(scored) == len({*scored})
    assert {*scored} == {*pairs}
    contexts = [request.context for request in requests]
    assert contexts == sorted(contexts)


def test_letters_of_a_context_are_one_request_of_at_most_128():
    pairs = [(CONTEXT, (letter,)) for letter in range(130)]
    first, second = plan_scoring(pairs, 16)
    assert first.settings["logprob_token_ids"] == list(range(128))
    assert second.settings["logprob_token_ids"] == [128, 129]
    assert first.prompt == CONTEXT


def test_what_is_decoded_and_what_is_read_whole():
    options = [(CONTEXT, (1, 2, option)) for option in range(4)]
    assert [one.whole for one in plan_scoring(options, 16)] == [False] * 4
    text = [((1,), tuple(range(50)))]
    (whole,) = plan_scoring(text, 16)
    assert (whole.whole, whole.prompt) == (True, (1, *range(50)))
    assert whole.settings["prompt_logprobs"] == 0
    # Without a prefix cache each option computes its context anew, and some steps more.
    assert all(one.whole for one in plan_scoring(options, 0))
    # A context that only begins like the one before it is in the cache too.
    shared = [((*CONTEXT, question), (1, 2)) for question in (5, 6)]
    assert [one.whole for one in plan_scoring(shared, 16)] == [True, False]


def test_what_is_read():
    forced = ScoreRequest(CONTEXT, ((1, 2),))
    assert forced.read(answered([[(1, -1.0, 1)], [(2, -0.5, 1)]])) == [(-1.5, True)]
    assert forced.read(answered([[(1, -1.0, 1)], [(2, -0.5, 2)]])) == [(-1.5, False)]
    letters = ScoreRequest(CONTEXT, ((1,), (2,)))
    found = letters.read(answered([[(2, -0.5, 1), (1, -1.0, 1), (2, -0.5, 2)]]))
    assert found == [(-1.0, False), (-0.5, True)]
    whole = ScoreRequest((7, 8), ((1, 2),), whole=True)
    before = [[], [(8, -9.0, 1)], [(1, -1.0, 1)], [(2, -0.5, 1)]]
    assert whole.read(answered([[(5, 0.0, 1)]], before)) == [(-1.5, True)]


def test_of_equal_probabilities_none_is_greedy():
    """vLLM counts the tokens with at least as much; `prompt_logprobs` is read in the same way."""
    letters = ScoreRequest(CONTEXT, ((1,), (2,)))
    assert letters.read(answered([[(1, -0.5, 2), (1, -0.5, 1), (2, -0.5, 2)]])) == [
        (-0.5, False), (-0.5, False)
    ]  # fmt: skip


@pytest.mark.parametrize("continuations", [((1, 2),), ((1,), (2,))])
def test_other_tokens_are_an_error(continuations):
    with pytest.raises(SteeringError, match="must run with dsmoe-eval's logits processors"):
        ScoreRequest(CONTEXT, continuations).read(answered([[(1, 0.0, 1)], [(3, 0.0, 1)]]))

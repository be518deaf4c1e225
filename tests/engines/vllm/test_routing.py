"""Rows of interleaved, chunked and repeated forwards find their request; what is amiss is told."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.engines.vllm.routing import Recorder, assemble
from dsmoe_eval.steering import SteeringError

LAYERS, EXPERTS, TOP_K, ROOM = (1, 3), 16, 2, 64


class FirstRunner:
    """vLLM's first model runner, as far as it is read: buffers that the next batch overwrites."""

    def __init__(self):
        self.input_batch = SimpleNamespace(req_ids=[])
        self.query_start_loc = SimpleNamespace(np=np.zeros(ROOM, dtype=np.int32))
        self.positions = torch.zeros(ROOM, dtype=torch.long)
        self.input_ids = SimpleNamespace(gpu=torch.zeros(ROOM, dtype=torch.int32))

    def _prepare_inputs(self, names, counts, positions, tokens):
        self.input_batch.req_ids[:] = names
        self.query_start_loc.np[:] = len(tokens)
        self.query_start_loc.np[: len(names) + 1] = [0, *np.cumsum(counts)]
        self.positions[: len(tokens)] = torch.tensor(positions)
        self.input_ids.gpu[: len(tokens)] = torch.tensor(tokens)

    def run(self, *batch):
        self._prepare_inputs(*batch)


class SecondRunner:
    """vLLM's model runner V2: each batch is an object of its own, its rows are padded."""

    def prepare_inputs(self, names, counts, positions, tokens):
        return SimpleNamespace(
            req_ids=names,
            query_start_loc_np=np.array([0, *np.cumsum(counts), len(tokens)]),
            positions=torch.tensor([*positions, 0]),
            input_ids=torch.tensor([*tokens, 0]),
        )

    def run(self, *batch):
        self.prepare_inputs(*batch)


def routing(name, position, layer):
    """What the model does with a token: a rule by which everything differs."""
    generator = np.random.default_rng([sum(name.encode()), position, layer])
    return generator.random(TOP_K), generator.permutation(EXPERTS)[:TOP_K]


def logits_of(name, position, layer):
    """The token's logits: 0, 2 x, 0, 2 x, ..., whose standard deviation is x."""
    return [0, 2.0 * (sum(name.encode()) + 10 * position + layer)] * (EXPERTS // 2)


def forward(runner, recorder, requests, pieces, layers=LAYERS):
    """One forward over (request, from, to) of each piece; its buffers are wiped afterwards.

    `requests` holds, by their name inside vLLM, their tokens and how many of those are prompt.
    """
    rows = [(name, place) for name, start, end in pieces for place in range(start, end)]
    tokens = [requests[name][0][place] for name, place in rows]
    names, counts = [p[0] for p in pieces], [end - start for _, start, end in pieces]
    runner.run(names, counts, [place for _, place in rows], tokens)
    for layer in layers:
        seen = [routing(name, place, layer) for name, place in rows]
        weights = torch.tensor(np.array([w for w, _ in seen]))
        indices = torch.tensor(np.array([i for _, i in seen]), dtype=torch.int32)
        logits = torch.tensor([logits_of(name, place, layer) for name, place in rows])
        recorder.note_logits(logits)
        recorder.note(layer, weights, indices)
        logits.zero_()
        weights.zero_()
        indices.zero_()


def random_run(seed):
    """Requests, and forwards over pieces of them: chunked, interleaved, and started anew."""
    draw = np.random.default_rng(seed)
    requests, left, forwards = {}, {}, []
    for number in range(draw.integers(1, 5)):
        tokens = draw.integers(0, 999, draw.integers(2, 10)).tolist()
        requests[f"{number}-{seed:x}"] = tokens, int(draw.integers(1, len(tokens) + 1))
        left[f"{number}-{seed:x}"] = 0
    while left:
        pieces = []
        for name in draw.permutation(sorted(left)).tolist():
            tokens, prompt = requests[name]
            end = len(tokens) - (prompt < len(tokens))  # the last token of an answer is never run
            start = 0 if draw.random() < 0.1 else left[name]  # put off, to be computed again
            left[name] = start + int(draw.integers(0, end - start + 1))
            if left[name] > start:
                pieces.append((name, start, left[name]))
            if left[name] == end:
                del left[name]
        if pieces:
            forwards.append(pieces)
    return requests, forwards


def answered(requests):
    """As vLLM tells its caller: names without what it put behind them."""
    return [(name.split("-")[0], ids[:cut], ids[cut:]) for name, (ids, cut) in requests.items()]


@pytest.mark.parametrize("kind", [FirstRunner, SecondRunner])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_token_finds_its_routing(kind, seed):
    requests, forwards = random_run(seed)
    runner = kind()
    prepare = getattr(runner, "prepare_inputs", None)
    recorder = Recorder(runner, LAYERS)
    for pieces in forwards:
        forward(runner, recorder, requests, pieces)
    found = assemble(recorder.finish(), answered(requests))
    assert getattr(runner, "prepare_inputs", None) == prepare
    for one, (name, (tokens, prompt)) in zip(found, requests.items(), strict=True):
        assert one.tokens == tuple(tokens)
        assert one.prompt_length == prompt
        routed = len(tokens) - (prompt < len(tokens))
        wanted = [[routing(name, i, layer) for layer in LAYERS] for i in range(routed)]
        weights, experts = (np.array([[x[j] for x in row] for row in wanted]) for j in (0, 1))
        assert torch.equal(one.experts, torch.tensor(experts))
        assert torch.equal(one.weights, torch.tensor(weights).float())
        spread = [[logits_of(name, i, layer)[1] / 2 for layer in LAYERS] for i in range(routed)]
        assert torch.equal(one.spread, torch.tensor(spread))
        assert one.experts.shape == (routed, len(LAYERS), TOP_K)


REQUESTS = {"0-ab": ([5, 6, 7, 8], 2), "1-ab": ([5, 6], 2)}


def recorded(*forwards, **settings):
    runner = FirstRunner()
    recorder = Recorder(runner, LAYERS)
    for pieces in forwards:
        forward(runner, recorder, REQUESTS, pieces, **settings)
    return recorder.finish()


def test_a_token_computed_past_the_end_is_left_out():
    """vLLM may run one more step before it learns that an answer has ended."""
    (one, _) = assemble(
        recorded([("0-ab", 0, 3), ("1-ab", 0, 2)], [("0-ab", 3, 4)]), answered(REQUESTS)
    )
    assert one.experts.shape[0] == 3


def test_what_is_incomplete_or_of_other_tokens_is_refused():
    whole = [("0-ab", 0, 3), ("1-ab", 0, 2)]
    for forwards in ([whole[:1]], [[("0-ab", 0, 2), whole[1]]], [[("0-ab", 1, 3), whole[1]]], []):
        with pytest.raises(SteeringError, match=r"routing of \d tokens of a request was seen, not"):
            assemble(recorded(*forwards), answered(REQUESTS))
    with pytest.raises(SteeringError, match="is of other tokens"):
        assemble(recorded(whole), [("0", [5, 6], [9, 8]), ("1", [5, 6], [])])
    swapped = [("1", [5, 6, 7], [8]), ("0", [5, 6], [])]
    with pytest.raises(SteeringError, match="was seen, not of all 3"):
        assemble(recorded(whole), swapped)


def test_a_forward_that_hides_a_layer_or_rows_is_refused():
    with pytest.raises(SteeringError, match=r"5 tokens, layers \[3\] showed the routing of \[0\]"):
        recorded([("0-ab", 0, 3), ("1-ab", 0, 2)], layers=LAYERS[:1])
    runner = FirstRunner()
    recorder = Recorder(runner, LAYERS)
    runner.run(["0-ab"], [3], [0, 1, 2], [5, 6, 7])
    for layer in LAYERS:
        recorder.note_logits(torch.ones(2, EXPERTS))
        recorder.note(layer, torch.ones(2, TOP_K), torch.ones(2, TOP_K))
    with pytest.raises(SteeringError, match=r"layers \[1, 3\] showed the routing of \[2\]"):
        recorder.finish()


def test_an_unknown_runner_is_refused():
    with pytest.raises(SteeringError, match="SimpleNamespace is not known"):
        Recorder(SimpleNamespace(), LAYERS)

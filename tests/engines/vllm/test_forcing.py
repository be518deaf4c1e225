"""Forced tokens in the batches of both model runners."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from dsmoe_eval.engines.vllm.forcing import ForcedTokens

pytestmark = pytest.mark.vllm

VOCABULARY = 50
CPU = torch.device("cpu")


def asked(*forced):
    return SamplingParams(extra_args={"dsmoe_force": list(forced)} if forced else None)


def likeliest(logits):
    return logits.argmax(-1).tolist()


def test_the_first_runner():
    """Requests that come, move, swap and go; tokens after the last forced one are free."""
    processor, answers = ForcedTokens(None, CPU, False), [[], [], []]

    def step(update=None):
        processor.update_state(update)
        logits = torch.zeros(3, VOCABULARY)
        logits[:, 49] = 1
        return likeliest(processor.apply(logits))

    added = [
        (row, asked(*forced), [], answers[row]) for row, forced in enumerate(((3, 4), (), (5,)))
    ]
    assert step(BatchUpdate(3, removed=[], added=added, moved=[])) == [3, 49, 5]
    for answer, token in zip(answers, (3, 49, 5), strict=True):
        answer.append(token)
    assert step() == [4, 49, 49]
    swap = (0, 1, MoveDirectionality.SWAP)
    assert step(BatchUpdate(3, removed=[], added=[], moved=[swap])) == [49, 4, 49]
    other = (1, asked(9), [], [])
    assert step(BatchUpdate(3, removed=[], added=[other], moved=[])) == [49, 9, 49]
    assert step(BatchUpdate(2, removed=[1], added=[], moved=[])) == [49, 49, 49]


@pytest.mark.parametrize("seed", range(3))
def test_the_second_runner(seed):
    """Slots that are filled again, rows in any order, and lists longer than the table."""
    chance, slots = np.random.default_rng(seed), 6
    buffer = SimpleNamespace(gpu=torch.zeros(slots, dtype=torch.int32))
    state = SimpleNamespace(device=CPU, max_num_reqs=slots, prompt_len=buffer)
    processor, forced = ForcedTokens(None, state), {}
    for _ in range(20):
        slot = int(chance.integers(slots))
        forced[slot] = chance.integers(VOCABULARY, size=chance.integers(0, 40)).tolist()
        assert processor.add_request(slot, asked(*forced[slot])) == bool(forced[slot])
        buffer.gpu[slot] = int(chance.integers(1, 9))
        processor.apply_staged_writes()
        rows = chance.permutation(list(forced)).tolist()
        steps = [int(chance.integers(-2, 44)) for _ in rows]
        context = SimpleNamespace(
            expanded_idx_mapping=torch.tensor([*rows, -1], dtype=torch.int32),
            pos=torch.tensor(
                [buffer.gpu[r] + s - 1 for r, s in zip(rows, steps, strict=True)] + [0]
            ),
        )
        logits = torch.from_numpy(chance.normal(size=(len(rows) + 1, VOCABULARY))).float()
        free = likeliest(logits)
        expected = [
            forced[row][step] if 0 <= step < len(forced[row]) else token
            for row, step, token in zip(rows, steps, free, strict=False)
        ]
        found = processor.apply(logits.clone(), context)
        assert likeliest(found) == [*expected, free[-1]]
        assert int((found != logits).sum()) == sum(
            0 <= step < len(forced[row]) for row, step in zip(rows, steps, strict=True)
        )


def test_no_list_of_tokens_is_refused():
    ForcedTokens.validate_params(asked())
    ForcedTokens.validate_params(asked(1, 2))
    for wrong in ([], "3", [-1], [1.5]):
        with pytest.raises(ValueError, match="dsmoe_force must be a list of token ids"):
            ForcedTokens.validate_params(SamplingParams(extra_args={"dsmoe_force": wrong}))
    assert not ForcedTokens(None, CPU, False).is_argmax_invariant()

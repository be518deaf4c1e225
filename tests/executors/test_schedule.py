"""Which model gets the next worker, and what a worker needs."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.cards import Plan
from dsmoe_eval.errors import UserError
from dsmoe_eval.executors.schedule import (
    RESERVE_GIB,
    ModelState,
    Needs,
    needs_of,
    next_worker,
    piece_work,
)
from dsmoe_eval.registry import load_plan

STATES = st.lists(
    st.builds(
        ModelState,
        model=st.sampled_from("abcdefgh"),
        needs=st.builds(Needs, gpus=st.integers(0, 4), cpus=st.just(1)),
        workers=st.integers(0, 3),
        open=st.none() | st.integers(0, 9),
        work=st.sampled_from([0.0, 1.0, 2.5]),
    ),
    max_size=6,
    unique_by=lambda one: one.model,
)


@given(STATES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_first_workers_come_first_and_nothing_is_chosen_without_room(states, free, random):
    def fits(needs):
        return needs.gpus <= free

    chosen = next_worker(states, fits)
    random.shuffle(states)
    assert next_worker(states, fits) == chosen
    waiting = [one for one in states if one.workers == 0]
    able = [one for one in waiting if fits(one.needs)]
    if chosen is None:
        assert not able
        assert waiting or not [s for s in states if fits(s.needs) and (s.open or 0) > s.workers]
        return
    state = next(one for one in states if one.model == chosen)
    assert fits(state.needs)
    if waiting:
        assert state.workers == 0
        assert state.work == max(one.work for one in able)
    else:
        assert (state.open or 0) > state.workers
        others = [s for s in states if fits(s.needs) and (s.open or 0) > s.workers]
        assert state.work / state.workers == max(s.work / s.workers for s in others)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20)), min_size=1), st.integers(1, 30))
def test_workers_are_spread_until_room_or_pieces_end(models, gpus):
    """Started one by one, never more than there is room for, never a second before all firsts."""
    states = {
        str(i): ModelState(str(i), Needs(n, 1), 0, pieces, pieces)
        for i, (n, pieces) in enumerate(models)
    }
    free, order = gpus, Counter()
    while chosen := next_worker([*states.values()], lambda needs, room=free: needs.gpus <= room):
        one = states[chosen]
        free -= one.needs.gpus
        if one.workers:
            assert len(order) == len(states)
            assert one.workers < one.open
        states[chosen] = replace(one, workers=one.workers + 1)
        order[chosen] += 1
    assert free >= 0
    if len(order) < len(states):
        assert all(one.needs.gpus > free for one in states.values() if not one.workers)


@pytest.fixture
def plan():
    return load_plan("lab")[0]


def test_needs_without_gpus(plan):
    assert needs_of(plan, "gpt-oss-120b", None) == Needs(0, 1)
    assert needs_of(plan, "gpt-oss-120b", 80.0, "cpu") == Needs(0, 1)
    more = Plan.model_validate(plan.model_dump() | {"resources": {"gpus": 3, "cpus": 2}})
    assert needs_of(more, "gpt-oss-120b", None) == Needs(0, 2)


def test_needs_follow_the_plan_and_the_card(plan):
    def needs(model, gib=80.0, device=None, **keys):
        plan_of = Plan.model_validate(plan.model_dump() | keys)
        return needs_of(plan_of, model, gib, device).gpus

    alone = {"engine": "vllm", "learner": "vllm"}
    assert needs("olmoe-1b-7b") == 1
    assert needs("olmoe-1b-7b", device="auto") == 1
    assert needs("olmoe-1b-7b", resources={"gpus": 2}) == 2
    assert needs("olmoe-1b-7b", engine="vllm", tensor_parallel=4) == 4
    assert needs("organisation/unknown") == 1
    # gpt-oss-120b has 117B parameters: 218 GiB in 16 bits, 61 GiB as published.
    assert needs("gpt-oss-120b", device="auto") == math.ceil(218 / (80 - RESERVE_GIB)) == 4
    assert needs("gpt-oss-120b", **alone) == 1
    with pytest.raises(UserError, match=r"take 218 GiB in transformers; .* 4 GPUs of 80 GiB; give"):
        needs("gpt-oss-120b")
    with pytest.raises(UserError, match=r"218 GiB in transformers"):
        needs("gpt-oss-120b", engine="vllm", tensor_parallel=4)
    assert needs("gpt-oss-120b", engine="vllm", tensor_parallel=2, device="auto") == 4
    assert needs("gpt-oss-120b", engine="vllm", tensor_parallel=2, device="cpu") == 2
    with pytest.raises(UserError, match=r"give resources: \{gpus: 4\}, or the plan"):
        needs("gpt-oss-120b", device="auto", resources={"gpus": 2})
    with pytest.raises(UserError, match=r"give the plan tensor_parallel: 3$"):
        needs("qwen3-next-80b-a3b-thinking", **alone, tensor_parallel=2)
    assert needs("lab-poly", 4.0) == 1
    # 12.9 GiB, of which 6 fit into each GPU.
    with pytest.raises(UserError, match=r"13 GiB .* 2 GiB beside them .* 3 GPUs of 8 GiB"):
        needs("olmoe-1b-7b", 8.0)


def test_work_goes_with_the_weights(plan):
    assert piece_work(plan, "olmoe-1b-7b") == pytest.approx(12.9, abs=0.1)
    assert piece_work(plan, "organisation/unknown") == 1

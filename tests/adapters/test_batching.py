"""Who is batched with whom, and what becomes of errors and of those who leave."""

import itertools
import threading

import anyio
import pytest

from dsmoe_eval.adapters.batching import Batcher


class Echo:
    """Notes its batches; waits for `gate`."""

    def __init__(self):
        self.batches, self.gate, self.inside = [], threading.Event(), 0
        self.gate.set()

    def __call__(self, requests):
        self.inside += 1
        assert self.inside == 1
        self.batches.append(list(requests))
        self.gate.wait(5)
        self.inside -= 1
        if "bad" in requests:
            raise ValueError("no")
        return [f"{request}!" for request in requests]


def asked(batcher, requests, most, backend="asyncio"):
    answers = {}

    async def one(request):
        try:
            answers[request] = await batcher.ask(request, most)
        except ValueError as error:
            answers[request] = str(error)

    async def everyone():
        async with anyio.create_task_group() as group:
            for request in requests:
                group.start_soon(one, request)

    anyio.run(everyone, backend=backend)
    return answers


def test_what_comes_together_is_answered_together():
    echo = Echo()
    names = [str(n) for n in range(7)]
    assert asked(Batcher(echo), names, 3) == {name: f"{name}!" for name in names}
    assert [len(batch) for batch in echo.batches] == [3, 3, 1]
    assert sorted([*itertools.chain(*echo.batches)]) == names


def test_one_batcher_serves_one_event_loop_after_another():
    batcher = Batcher(Echo())
    for _ in range(2):
        assert asked(batcher, ["a", "b"], 8) == {"a": "a!", "b": "b!"}


def test_an_error_is_everyones_of_its_batch_and_of_no_other():
    batcher = Batcher(Echo())
    assert asked(batcher, ["bad", "a"], 2) == {"bad": "no", "a": "no"}
    assert asked(batcher, ["a"], 2) == {"a": "a!"}


@pytest.mark.parametrize("leaver", ["a", "c"])
def test_who_leaves_takes_nobody_along(leaver):
    """`a` runs the batch of `a` and `b`; `c` waits for the next."""
    echo, answers, scopes = Echo(), {}, {}
    echo.gate.clear()
    batcher = Batcher(echo)

    async def one(request):
        with anyio.CancelScope() as scopes[request]:
            answers[request] = await batcher.ask(request, 2)

    async def everyone():
        async with anyio.create_task_group() as group:
            group.start_soon(one, "a")
            group.start_soon(one, "b")
            while not echo.batches:
                await anyio.sleep(0.01)
            group.start_soon(one, "c")
            group.start_soon(one, "d")
            await anyio.sleep(0.05)
            scopes[leaver].cancel()
            await anyio.sleep(0.05)
            echo.gate.set()

    anyio.run(everyone)
    stayed = {"a", "b", "c", "d"} - {leaver}
    assert {name: answers[name] for name in stayed} == {name: f"{name}!" for name in stayed}
    assert (leaver in [*itertools.chain(*echo.batches)]) == (leaver == "a")

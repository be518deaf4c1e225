"""Batches that do not fit into memory, and those that are prepared ahead."""

import threading

import pytest
import torch

from dsmoe_eval.engines.transformers.memory import ahead, in_halves
from dsmoe_eval.errors import UserError

CPU_WORDS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. "
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."
)
CUDA_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB."


def worker(most, error):
    def work(batch):
        if len(batch) > most:
            raise error
        return list(batch)

    return work


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA_WORDS), RuntimeError(CPU_WORDS)])
@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_halves_come_in_order_and_whole(most, error):
    batch = ["a" * n for n in range(9)]
    parts = list(in_halves(batch, worker(most, error), len))
    assert [item for part, _ in parts for item in part] == batch
    assert all(part == result and len(part) <= most for part, result in parts)


def test_one_item_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="no memory for one row of 7 tokens"):
        list(in_halves(["a" * 7], worker(0, torch.OutOfMemoryError(CUDA_WORDS)), len))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_halves(["a", "b"], worker(0, RuntimeError("shapes")), len))


def test_what_torch_itself_says_is_known():
    def greedy(batch):
        return [torch.empty(2**60 if len(batch) > 1 else 1, dtype=torch.uint8) for _ in batch]

    assert len(list(in_halves(["a", "b", "c"], greedy, len))) == 3


def test_one_item_is_prepared_ahead_by_another_thread():
    prepared, threads = [], set()

    def prepare(item):
        prepared.append(item)
        threads.add(threading.get_ident())
        return -item

    found = []
    for item, result in ahead(iter(range(5)), prepare):
        assert len(prepared) <= item + 2
        found.append((item, result))
    assert found == [(n, -n) for n in range(5)]
    assert threads.isdisjoint({threading.get_ident()})
    assert list(ahead([], prepare)) == []


def test_an_error_in_preparation_comes_with_its_item():
    coming = ahead([2, 1, 0, 3], lambda item: 1 / item)
    assert [next(coming) for _ in range(2)] == [(2, 0.5), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(coming)

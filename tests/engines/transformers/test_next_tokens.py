"""Log-probabilities against float64, and what crosses to the host."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from torch.utils._python_dispatch import TorchDispatchMode

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.engines.transformers.next_tokens import (
    Queries,
    Tally,
    log_probabilities,
    score_queries,
)
from dsmoe_eval.models.loading import load_model

CPU = torch.device("cpu")


def test_log_probabilities_are_precise_for_any_vocabulary():
    """An error that grows with the vocabulary and has one sign adds up over a text's tokens."""
    generator = torch.Generator().manual_seed(3)
    for vocabulary in (50, 50_000, 200_000):
        logits = 3 * torch.randn(16, vocabulary, generator=generator)
        exact = logits.double().log_softmax(-1)
        assert float((log_probabilities(logits) - exact).abs().max()) < 2.5e-6
        half = log_probabilities(logits.bfloat16())
        assert half.dtype == torch.float32
        queries = Queries.of(torch.arange(16), torch.arange(16), torch.arange(16), CPU)
        likely, hit = score_queries(lambda some, of=logits: of[some], vocabulary, queries, CPU)
        assert float((likely - exact[range(16), range(16)]).abs().max()) < 2.5e-6
        assert hit.tolist() == (logits.argmax(-1) == torch.arange(16)).tolist()


@pytest.mark.parametrize("at_once", [1, 150, 2**21])
def test_queries_are_judged_and_added_up_in_pieces_of_any_size(monkeypatch, at_once):
    monkeypatch.setattr(
        "dsmoe_eval.engines.transformers.next_tokens._LOGITS_AT_ONCE", {"cpu": at_once}
    )
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(20, 30, generator=generator)
    at = torch.randint(20, (50,), generator=generator)
    targets = torch.randint(30, (50,), generator=generator)
    targets[::2] = logits.argmax(-1)[at[::2]]
    owners = torch.arange(50) // 2 % 11
    tally = Tally(11)
    for half in (slice(0, 20), slice(20, 50)):
        queries = Queries.of(at[half], targets[half], owners[half], CPU)
        states = logits[queries.places]
        judged = score_queries(lambda some, of=states: of[some], 30, queries, CPU)
        assert tally.add(queries, judged) == len(set(owners[half].tolist()))
    exact, best = logits.double().log_softmax(-1), logits.argmax(-1)
    for owner, (total, greedy) in enumerate(tally.done()):
        mine = (owners == owner).nonzero()[:, 0].tolist()
        assert total == pytest.approx(sum(float(exact[at[i], targets[i]]) for i in mine), abs=1e-4)
        assert greedy == all(best[at[i]] == targets[i] for i in mine)


def requests(letters):
    start = "What is the sign of the root? 7 + 6 " * 4
    options = (
        ("the", "what", "is", "of") if letters else ("1 3 2", "the maker of it", "the maker", "6")
    )
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=(start + ask, f" {option}"), idx=0)
        for ask in ("the sign", "the root", "the sum", "7 + 6")
        for option in options
    ]


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("letters", [True, False])
def test_only_queried_values_cross_and_the_head_sees_only_queried_places(
    monkeypatch, shares, letters
):
    loaded = load_model("lab-poly", "cpu")
    lm = TransformersLM(loaded, 4096)
    lm.shares, lm._asked = shares, True
    asked = requests(letters)
    pairs = [lm._encode_pair(*one.args) for one in asked]
    tokens = sum(len(rest) for _, rest in pairs)
    places = {(*context, *rest[:end]) for context, rest in pairs for end in range(len(rest))}
    crossed, seen, cpu = [], [], torch.Tensor.cpu

    def counting(tensor):
        crossed.append(tensor.numel())
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counting)
    head = loaded.model.get_output_embeddings()
    with head.register_forward_hook(lambda _m, _a, out: seen.append(out.numel() // out.shape[-1])):
        lm.loglikelihood(asked)
    assert sum(crossed) == 2 * tokens
    if letters:
        assert sum(seen) == len(places) == 4
    else:  # texts of two rows may begin alike
        assert len(places) <= sum(seen) <= tokens


class Crossings(TorchDispatchMode):
    """Counts the elements that are copied from a GPU to the host, by operation."""

    def __init__(self):
        super().__init__()
        self.elements = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        source = args[1] if name == "copy_" else args[0] if args else None
        if isinstance(source, torch.Tensor) and source.is_cuda:
            to_host = isinstance(out, torch.Tensor) and out.device.type == "cpu"
            if to_host or name in ("_local_scalar_dense", "nonzero"):
                self.elements[name] += source.numel() if to_host else 1
        return out


@pytest.mark.gpu
@pytest.mark.parametrize("shares", [True, False])
def test_on_a_gpu_only_queried_values_cross(shares):
    loaded = load_model("lab-poly", "cuda")
    lm = TransformersLM(loaded, 4096)
    lm.shares, lm._asked = shares, True
    asked = requests(letters=False)
    tokens = sum(len(lm._encode_pair(*one.args)[1]) for one in asked)
    with Crossings() as crossings:
        found = lm.loglikelihood(asked)
    assert sum(crossings.elements.values()) <= 2 * tokens + 64, crossings.elements
    on_cpu = TransformersLM(replace(loaded, model=load_model("lab-poly", "cpu").model), 4096)
    expected = on_cpu.loglikelihood(asked)
    for (one, _), (other, _) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)

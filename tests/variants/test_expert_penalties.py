"""The losses on the similarity of experts: which of them run, on which tokens, what is added."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from dsmoe_eval.cards import Sft
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts.similarity import cka
from dsmoe_eval.steering import find_routers
from dsmoe_eval.variants import expert_penalties
from dsmoe_eval.variants.expert_penalties import (
    ExpertCall,
    HingePenalty,
    PenaltyRecord,
    check_single_experts,
    distinct_tokens,
    hinge_penalty,
    published_penalty,
)
from dsmoe_eval.variants.sft import train_adapter

from ..conftest import make_model
from .test_sft import Letters

SETTINGS = Sft(rank=4, lora_alpha=8, learning_rate=0.02, epochs=2, batch_size=20)
PAIRS = [(a + b + c, c) for a, b, c in itertools.islice(itertools.permutations("abcdef", 3), 40)]


def read(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """The model is small, and so are its texts; experts of random weights are less alike."""
    monkeypatch.setattr(expert_penalties, "FEWEST_TOKENS", 8)
    monkeypatch.setattr(expert_penalties, "THRESHOLD", 0.05)


def train(folder, make=None, name="qwen3_moe"):
    model = make_model(name)
    penalty = make(model) if make else None
    train_adapter(model, Letters(), PAIRS, SETTINGS, 0, folder, penalty=penalty)
    return penalty


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    train(folder)
    return folder


@pytest.mark.parametrize("source", ["method", "zero_weight", "shuffled_rows"])
def test_a_weight_of_zero_trains_as_without_the_loss_bit_for_bit(plain, tmp_path, source):
    penalty = train(tmp_path, lambda model: hinge_penalty(model, 0, source))
    record = penalty.record()
    assert record.pairs > 0
    assert record.first_cka is not None
    if source == "method":
        assert record.steps_above > 0 < record.mean_loss
    if source == "zero_weight":
        assert (record.mean_loss, record.weight) == (0, 0)
        assert record.steps_above > 0  # measured all the same
    assert (read(tmp_path) == read(plain)) == (record.mean_loss == 0)


def test_a_large_weight_makes_the_pairs_less_alike(tmp_path):
    ends = [
        train(
            tmp_path / str(weight),
            lambda model, w=weight: HingePenalty(find_routers(model), 0, w, shuffled=False),
        ).record()
        for weight in (0.0, 100.0)
    ]
    assert ends[0].first_cka == ends[1].first_cka
    assert ends[1].last_cka < ends[0].last_cka - 0.02


def test_the_published_loss_trains_its_projections_and_leaves_the_rest_to_lora(plain, tmp_path):
    before = []

    def make(model):
        penalty = published_penalty(model, 0)
        before.extend(one.detach().clone() for one in penalty.parameters)
        return penalty

    penalty = train(tmp_path, make)
    record, experts = penalty.record(), 8
    assert len(penalty.parameters) == 2 * len(penalty.routers)
    assert {one.shape[0] for one in penalty.parameters} == {experts}
    assert record.pairs > 0
    assert record.steps_above > 0 < record.mean_loss
    changed = [not torch.equal(*both) for both in zip(before, penalty.parameters, strict=True)]
    assert any(changed)
    assert read(tmp_path) != read(plain)


@contextmanager
def adapted(name):
    """A model with adapters that change it, and its calls of experts in one pass."""
    peft = pytest.importorskip("peft")
    model = make_model(name)
    routers = find_routers(model)
    config = peft.LoraConfig(
        r=2, target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        init_lora_weights=False,
    )  # fmt: skip
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config)
    penalty = HingePenalty(routers, 0, shuffled=False)
    ids = torch.arange(2, 62).reshape(3, 20) % 50
    with penalty.attached():
        wrapped(input_ids=ids)
    yield [penalty._calls[router.layer] for router in routers], wrapped, ids


@pytest.mark.parametrize("name", ["qwen3_moe", "olmoe", "mixtral"])
def test_outputs_are_those_of_the_adapted_experts_with_gradient(name):
    with adapted(name) as (calls, wrapped, _):
        call: ExpertCall = calls[-1]
        rows = [torch.tensor([0, 7, 30]), torch.tensor([5, 58])]
        pairs = [((0, 3), rows[0]), ((1, 2), rows[1])]
        found = call.outputs(pairs)
        with torch.no_grad():  # the same experts with their adapters merged, one at a time
            hidden = call.given[0]
            merged = wrapped.merge_and_unload()
            experts = find_routers(merged)[-1].consumer
            for ((one, other), where), outputs in zip(pairs, found, strict=True):
                for expert, output in zip((one, other), outputs, strict=True):
                    gate, up = (hidden[where] @ experts.gate_up_proj[expert].T).chunk(2, -1)
                    by_hand = (nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
                    torch.testing.assert_close(output, by_hand, atol=1e-5, rtol=1e-4)
        assert all(output.requires_grad for both in found for output in both)
        assert call.outputs([]) == []


def test_the_hinge_is_that_of_the_pairs_with_most_distinct_tokens():
    with adapted("qwen3_moe") as (calls, _, ids):
        mask = torch.ones_like(ids)
        mask[2, 15:] = 0
        penalty = HingePenalty([], 0, shuffled=False)
        found = penalty.compared(calls[:1], ids, mask)
        tokens, shares = distinct_tokens(ids, mask).tolist(), {}
        for token in tokens:
            for pair in itertools.combinations(sorted(calls[0].indices[token].tolist()), 2):
                shares.setdefault(pair, []).append(token)
        best = sorted(shares, key=lambda pair: (-len(shares[pair]), pair))[:4]
        best = [pair for pair in best if len(shares[pair]) >= 8]
        assert len(found) == len(best) > 0
        for value, pair in zip([one.detach() for one in found], best, strict=True):
            (both,) = calls[0].outputs([(pair, torch.tensor(shares[pair]))])
            assert float(value) == pytest.approx(cka(*both), abs=1e-5)
        by_hand = sum(max(float(value.detach()) - 0.05, 0) for value in found) / len(found)
        assert float(penalty.loss(torch.stack(found)).detach()) == pytest.approx(by_hand)


def test_the_published_loss_is_the_sum_above_the_threshold():
    penalty = published_penalty(make_model("qwen3_moe"), 0)
    assert float(penalty.loss(torch.tensor([0.04, 0.5, 0.75, -0.1]))) == 1.25


def test_tokens_with_the_same_beginning_count_once():
    texts = [[3, 4, 5], [3, 4, 6], [4, 4, 5], [3, 4, 5]]
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]])
    kept, seen = [], set()
    for at, (row, position) in enumerate(itertools.product(range(4), range(3))):
        prefix = tuple(texts[row][: position + 1])
        if mask[row, position] and prefix not in seen:
            seen.add(prefix)
            kept.append(at)
    assert distinct_tokens(torch.tensor(texts), mask).tolist() == kept


def test_experts_that_cannot_run_alone_are_refused_by_name(monkeypatch):
    model = make_model("qwen3_moe")
    check_single_experts(model, [[3, 4, 5], [6, 7]], "sft-lora-cka")
    experts = find_routers(model)[0].consumer
    forward = type(experts).forward
    monkeypatch.setattr(
        experts, "forward", lambda *of: forward(experts, *of) + 0.1 * of[0].mean(), raising=False
    )
    with pytest.raises(UserError, match=r"single experts of .* leave sft-lora-cka out"):
        check_single_experts(model, [[3, 4, 5], [6, 7]], "sft-lora-cka")


def test_a_training_without_pairs_says_so():
    penalty = HingePenalty([], 0, shuffled=True)
    added = penalty(torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))
    assert float(added) == 0
    assert penalty.record() == PenaltyRecord(0.01, 0.05, 0, 0, None, None, 0.0)

"""Routers tuned on a domain's right answers, and what their routing changes, on the lab model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmoe_eval.cards import Identification, Sft
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import get_method
from dsmoe_eval.runs.answered import ROUTER_PACE, _router_pace, with_router_tuning
from dsmoe_eval.runs.identification import count_domains
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.tasks.identification import domain_texts, identification_text

PACE = Sft(learning_rate=0.02, epochs=2, batch_size=2)
LENS = IdentificationSpec.by([get_method("router-lens")], Identification(), {})


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def text():
    return identification_text("lab", 3, answered=True)


@pytest.fixture(scope="module")
def counts(ours, text, tmp_path_factory):
    root = tmp_path_factory.mktemp("lens")
    wanted = replace(LENS, sft=PACE)
    return count_domains(ours, text.tasks, wanted, root, lambda _: None), root


def by_hand(model, tokenizer, tasks, questions):
    """Plain AdamW on the routers' weights, on the right option behind each question; then count."""
    names = [name for name, _ in model.named_parameters() if name.endswith("mlp.gate.weight")]
    before = [model.get_parameter(name).detach().clone() for name in names]
    lessons = [
        right_request(task, item, index) for task in tasks for index, item in enumerate(task.items)
    ]
    used = [usage(model, tokenizer, questions)]
    model.requires_grad_(False).train()
    weights = [model.get_parameter(name).requires_grad_(True) for name in names]
    optimizer = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.0)
    generator, step, steps = torch.Generator().manual_seed(0), 0, 2 * -(-len(lessons) // 2)
    for _ in range(2):
        order = torch.randperm(len(lessons), generator=generator).tolist()
        for start in range(0, len(lessons), 2):
            batch = [lessons[index] for index in order[start : start + 2]]
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - step / steps)
            total, count = 0.0, 0
            for prompt, answer in batch:
                head, ids = (tokenizer.encode(one) for one in (prompt, prompt + answer))
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                rows = range(len(head) - 1, len(ids) - 1)
                total = total - sum(logits[row, ids[row + 1]] for row in rows)
                count += len(rows)
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
            step += 1
    model.eval()
    used.append(usage(model, tokenizer, questions))
    with torch.no_grad():
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    model.requires_grad_(True)
    return used[1] - used[0]


def right_request(task, item, index):
    requests = [one for one in task.requests if one.doc_id == index]
    return requests[item.rights[0]].args


@torch.no_grad()
def usage(model, tokenizer, texts):
    used, tokens = 0.0, 0
    for text in texts:
        logits = model(torch.tensor([tokenizer.encode(text)]), output_router_logits=True)
        chosen = torch.stack(logits.router_logits).topk(model.config.num_experts_per_tok).indices
        used = used + torch.nn.functional.one_hot(chosen, model.config.num_experts).sum((1, 2))
        tokens += chosen.shape[1]
    return used.double().numpy() / tokens


def test_it_is_the_change_by_plain_training_of_the_routers(ours, text, counts):
    found = get_method("router-lens").score(counts[0], "math")
    tasks = [task for task in text.tasks.values() if task.card.domain == "math"]
    tasks = [task for task in tasks if "target" in task.card.roles]
    loaded = ours.loaded
    expected = by_hand(loaded.model, loaded.tokenizer, tasks, domain_texts(text.tasks)["math"])
    assert np.abs(expected).max() > 0.02
    # Adam divides rounding by rounding where a gradient is nearly zero: a token or two may differ.
    assert np.abs(found - expected).sum() < 0.1 * np.abs(expected).sum()
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-12)


def test_the_model_is_unchanged_and_a_second_pass_is_read(ours, text, counts, monkeypatch):
    first, root = counts
    assert ours.identity.routers == load_engine("lab-poly", device="cpu").identity.routers
    monkeypatch.setattr("dsmoe_eval.runs.answered.train_deltas", None)
    again = with_router_tuning(ours, text.tasks, replace(first, use_change=None), root, PACE)
    np.testing.assert_array_equal(again.use_change, first.use_change)
    damaged = next(root.glob("*/change-000.safetensors"))
    damaged.write_bytes(b"x")
    with pytest.raises(UserError, match=r"change-000\.safetensors: cannot be read .* remove it"):
        count_domains(ours, text.tasks, replace(LENS, sft=PACE), root, lambda _: None)


def test_it_needs_tuned_routers_and_is_not_resampled(counts):
    with pytest.raises(ValueError, match="needs tuned routers"):
        get_method("router-lens").score(replace(counts[0], use_change=None), "math")
    with pytest.raises(ValueError, match="cannot be resampled"):
        counts[0].resampled(counts[0].weight)


def test_the_pace_is_the_plans():
    rates = {"lora": 0.5, "router": 0.25}
    plan = Sft(rank=1, lora_alpha=1, learning_rate=rates, epochs=7, batch_size=9)
    assert _router_pace(plan) == Sft(learning_rate=0.25, epochs=7, batch_size=9)
    assert _router_pace(plan.model_copy(update={"learning_rate": 0.1})).rate == 0.1
    lacking = plan.model_copy(update={"learning_rate": {"lora": 0.5}})
    assert _router_pace(lacking).rate == ROUTER_PACE.rate
    assert _router_pace(None) == ROUTER_PACE

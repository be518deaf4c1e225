"""Identification on text of the embedded model's suite: phases, methods, what is refused."""

import numpy as np
import pytest
import torch

from dsmoe_eval.cards import Identification
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import all_methods
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import (
    average_streams,
    count_domains,
    identify,
)
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.tasks.loading import load_tasks


@pytest.fixture(scope="module")
def tasks():
    suite = load_suite("lab")
    return load_tasks(suite, suite.identification_tasks, "identification", 6)


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-poly", device="cpu")


def wanted(**settings):
    return IdentificationSpec(Identification(**settings), True, False, {"?": 1.0})


def counts(engine, tasks, folder, **settings):
    return count_domains(engine, tasks, wanted(**settings), folder, lambda _: None)


def test_a_phase_is_read_from_its_own_tokens(ours, tasks, tmp_path):
    prompt = counts(ours, tasks, tmp_path)
    generated = counts(ours, tasks, tmp_path, phase="generated", answer_tokens=4)
    assert prompt.domains == generated.domains == tuple(t.card.domain for t in tasks.values())
    for domain, task in zip(prompt.domains, tasks.values(), strict=True):
        lengths = [len(ours.tokenizer(item.question)["input_ids"]) for item in task.items]
        assert prompt.of(domain).tokens == sum(lengths)
        assert 0 < generated.of(domain).tokens <= 3 * len(task.items)
    assert len(list(tmp_path.glob("answers-*.json"))) == 1


def test_the_vector_of_a_real_model_equals_an_independent_computation(ours, tasks, tmp_path):
    """transformers' record of one text at a time, in float64; the last is after the final norm."""
    means = average_streams(ours, tasks, Identification(), tmp_path, lambda _: None)
    model, states = ours.loaded.model, {}
    for task in tasks.values():
        for item in task.items:
            ids = torch.tensor([ours.tokenizer(item.question)["input_ids"]])
            with torch.no_grad():
                every = model(input_ids=ids, output_hidden_states=True).hidden_states
            states.setdefault(task.card.domain, []).append(torch.cat(every[1:-1]).double())
    pooled = {domain: torch.cat(parts, 1) for domain, parts in states.items()}
    for domain in means.domains:
        others = torch.cat([pooled[other] for other in pooled if other != domain], 1)
        expected = (pooled[domain].mean(1) - others.mean(1)).numpy()
        np.testing.assert_allclose(means.difference(domain)[:-1], expected, rtol=0, atol=1e-6)


def test_every_method_makes_a_profile(ours, tmp_path):
    for name in all_methods():
        profile = identify(ours, "lab", "law", name, limit=3, root=tmp_path)
        assert profile.method == name
        assert profile.experts
    passes = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(passes) == 5  # with saliency, without, with contributions; influence, tuned routers


def test_a_reader_of_other_tokens_is_refused(ours, tasks, tmp_path, monkeypatch):
    from dsmoe_eval.runs import identification as module

    class Other:
        tokenizer = staticmethod(lambda texts: {"input_ids": [[0, 1] for _ in texts]})

    monkeypatch.setattr(module, "load_saliency_model", lambda _: Other)
    with pytest.raises(UserError, match="'other' does not read the same tokens as 'lab-poly'"):
        counts(ours, tasks, tmp_path, saliency_model="other")


def test_a_marker_that_is_no_token_is_refused(ours, tasks, tmp_path):
    asked = IdentificationSpec(Identification(), False, False, {"zzz": 1.0})
    with pytest.raises(UserError, match="the marker 'zzz' is not one token"):
        count_domains(ours, tasks, asked, tmp_path, lambda _: None)

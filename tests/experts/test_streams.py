"""Mean residual streams, against transformers' own record of one text at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmoe_eval.experts import encode_documents, in_phase, mean_streams, with_answer

from ..conftest import make_model

TEXTS = {"one": ["abcde", "^bcd", "zyxwvut"], "two": ["qq", "aabb^cc"], "three": ["hijk"]}


@pytest.fixture
def documents(letters):
    return encode_documents(letters, TEXTS)


@torch.no_grad()
def one_at_a_time(model, documents):
    """[tokens, layers, hidden] of each domain; the last layer is read before the final norm."""
    last, states = [], {}
    norms = [module for name, module in model.named_modules() if name == "model.norm"]
    handle = norms[0].register_forward_pre_hook(lambda _module, args: last.append(args[0]))
    for one in documents:
        ids = torch.tensor([one.tokens])
        every = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        streams = torch.stack([*every[1:-1], last[-1]], dim=2)[0].double()
        states.setdefault(one.domain, []).append(streams[torch.tensor(one.kept)])
    handle.remove()
    return {domain: torch.cat(parts) for domain, parts in states.items()}


def test_the_vector_is_the_difference_of_means(model, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.experts.streams.token_budget", lambda _: 14)
    means = mean_streams(model, documents, tmp_path)
    states = one_at_a_time(model, documents)
    assert means.layers == 3
    assert means.tokens.tolist() == [len(states[domain]) for domain in means.domains]
    for domain in TEXTS:
        others = torch.cat([states[other] for other in TEXTS if other != domain])
        expected = states[domain].mean(0) - others.mean(0)
        np.testing.assert_allclose(means.difference(domain), expected.numpy(), rtol=0, atol=1e-6)


def test_an_interrupted_pass_goes_on_to_the_same_bits(documents, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.experts.streams.token_budget", lambda _: 1)
    model, done = make_model("olmoe"), []
    whole = mean_streams(model, documents, tmp_path / "whole")

    def stop_at_three(count):
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mean_streams(model, documents, tmp_path / "two", advance=stop_at_three)
    calls, told = [], []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    again = mean_streams(model, documents, tmp_path / "two", advance=told.append)
    assert (len(calls), told) == (len(documents) - 3, [3, 1, 1, 1])
    assert np.array_equal(again.sums, whole.sums)
    assert not any(one._forward_hooks for one in model.modules())


def test_other_inputs_are_another_pass_and_a_changed_file_is_refused(documents, tmp_path):
    model = make_model("olmoe")
    mean_streams(model, documents, tmp_path, identity="a")
    mean_streams(model, documents, tmp_path, identity="b")
    mean_streams(model, documents[:3], tmp_path, identity="b")
    paths = sorted(tmp_path.glob("streams-*.safetensors"))
    assert len(paths) == 3
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="remove it and run again"):
        mean_streams(model, documents, tmp_path, identity="a")


def test_a_phase_counts_its_own_tokens(documents):
    answered = [with_answer(one, (3, 4, 5)) for one in documents]
    prompt, generated = in_phase(answered, "prompt"), in_phase(answered, "generated")
    assert [sum(one.kept) for one in prompt] == [sum(one.kept) for one in documents]
    assert [sum(one.kept) for one in generated] == [2] * len(documents)
    assert [one.tokens for one in generated] == [one.tokens for one in answered]
    with pytest.raises(ValueError, match="domains without a generated token: one, three, two"):
        in_phase(documents, "generated")


def test_a_difference_needs_two_domains(documents, tmp_path):
    alone = [replace(one, domain="one") for one in documents]
    means = mean_streams(make_model("olmoe"), alone, tmp_path)
    for domain in ("one", "two"):
        with pytest.raises(ValueError, match="and of another domain"):
            means.difference(domain)

"""Selections that differ are counted as sets, on documents of every domain in turn."""

import json

import pytest
import torch
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.experts import Document
from dsmoe_eval.runs.agreement import TOKENS, compare_routing, sampled


def document(domain, tokens):
    return Document(domain, (3,) * tokens, (True,) * tokens, tokens)


def test_sets_that_differ_are_counted_and_the_order_is_not():
    a = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 0]], [[1, 0], [2, 3]]])
    b = a.flip(-1).clone()
    same = compare_routing(a, b, (2, 5), "transformers")
    assert (same.tokens, same.different, same.different_by_layer) == (3, 0.0, (0.0, 0.0))
    b[1, 1, 0] = 4
    other = compare_routing(a, b, (2, 5), "transformers")
    assert other.different == pytest.approx(1 / 6)
    assert other.different_by_layer == pytest.approx((0.0, 1 / 3))


def test_every_domain_has_its_turn_until_there_are_enough_tokens():
    few = [document("law", 5), document("law", 6), document("math", 7)]
    assert [len(one.tokens) for one in sampled(few)] == [5, 7, 6]
    many = [document(domain, TOKENS // 4) for domain in ("law", "math") for _ in range(9)]
    assert [one.domain for one in sampled(many)] == ["law", "math"] * 2
    assert len(sampled([document("law", 2 * TOKENS)])) == 1


@pytest.mark.vllm
def test_the_probe_compares_two_engines(monkeypatch):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    asked = ["probe", "lab-poly", "--device", "cpu", "--vllm-suite", "lab", "--json"]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    routing = json.loads(answer.stdout)["engine_routing"]
    assert routing["tokens"] >= TOKENS
    assert routing["different"] < 0.001, "in float32 hardly a near tie is decided otherwise"


def test_the_probe_compares_engines_of_models_with_weights_only():
    answer = CliRunner().invoke(main, ["probe", "olmoe-1b-7b", "--vllm-suite", "lab"])
    assert answer.exit_code == 3
    assert "--vllm-suite are for a model that has" in answer.output

"""The proof that sharing is right: what it sees, what its answer depends on, where it is kept."""

import copy
import json
import warnings
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from dsmoe_eval.engines.transformers import shared_prefix_forward as packed
from dsmoe_eval.engines.transformers import trust
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.engines.transformers.prefix_tree import PackedRow, plan_groups
from dsmoe_eval.engines.transformers.shared_prefix_forward import prepare_rows
from dsmoe_eval.errors import EvalWarning
from dsmoe_eval.models.loading import load_model

from ...conftest import ARCHITECTURES, make_model
from ...dense import dense_model

FAULTS = ("positions", "trees", "windows")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.engines.transformers.trust.cache_folder", lambda: tmp_path)
    return tmp_path / "sharing"


def plant(monkeypatch, fault):
    if fault == "trees":
        monkeypatch.setattr(PackedRow, "sees", lambda row: np.tri(len(row), dtype=bool))
    elif fault == "windows":
        masks = packed._masks
        monkeypatch.setattr(packed, "_masks", lambda model, seen, at: masks(model, seen, 0 * at))
    else:

        def shifted(*given):
            right = prepare_rows(*given)
            return replace(right, positions=right.positions + (right.positions > 35))

        monkeypatch.setattr(trust, "prepare_rows", shifted)
        monkeypatch.setattr("dsmoe_eval.engines.transformers.lm.prepare_rows", shifted)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sharing_is_right_and_a_fault_is_far_from_rounding(kind, monkeypatch):
    model = make_model(kind)
    proof = trust._ask(model)
    assert (proof.unknown, proof.outcome.agrees) == ("", True)
    assert proof.outcome.difference < trust.PROVEN / 3
    for fault in FAULTS[: 3 if kind == "gpt_oss" else 2]:
        with monkeypatch.context() as patch:
            plant(patch, fault)
            wrong = trust._ask(model).outcome
        assert not wrong.agrees
        assert wrong.difference > 1000 * trust.PROVEN


def test_every_way_of_sharing_is_among_the_texts_and_windows_are_shorter():
    pairs = trust.drawn(np.arange(2, 64), 4)
    kinds = set()
    for most in trust.WAYS:
        for group in plan_groups(pairs, most):
            kinds |= {(len(group.header) > 0, row.is_chain) for row in group.rows}
    assert kinds >= {(False, False), (True, False), (True, True)}
    assert min(len(context) for context, _ in pairs) > 2 * trust.WINDOW
    assert max(len(context) + len(rest) for context, rest in pairs) <= 48
    small = trust._with_short_windows(make_model("gpt_oss").config)
    assert small.sliding_window == trust.WINDOW


def test_the_question_changes_with_all_that_it_depends_on(monkeypatch):
    model = make_model("gpt_oss")
    before = trust.question_of(model)
    assert before == trust.question_of(make_model("gpt_oss"))
    larger = copy.deepcopy(model)
    larger.config.hidden_size = larger.config.hidden_size * 64
    larger.config._name_or_path = "elsewhere"
    wide = trust.question_of(larger)
    larger.config.hidden_size *= 2
    assert trust.question_of(larger) == wide  # weights' sizes are no part of it
    asked = [before, trust.question_of(make_model("olmoe"))]
    for name, value in (("num_experts_per_tok", 3), ("rope_parameters", {"rope_type": "yarn"})):
        changed = copy.deepcopy(model)
        setattr(changed.config, name, value)
        asked.append(trust.question_of(changed))
    changed = make_model("olmoe")
    changed.set_attn_implementation("eager")
    asked.append(trust.question_of(changed))
    monkeypatch.setattr(trust, "version", lambda name: version(name) + ".1")
    asked.append(trust.question_of(model))
    monkeypatch.undo()
    monkeypatch.setattr(trust, "_source", lambda: "0" * 64)
    asked.append(trust.question_of(model))
    assert len({json.dumps(one, sort_keys=True) for one in asked}) == len(asked)


@pytest.fixture
def asked(monkeypatch):
    count, ask = [], trust._ask

    def counting(model):
        count.append(model)
        return ask(model)

    monkeypatch.setattr(trust, "_ask", counting)
    return count


def test_an_answer_is_kept_and_a_damaged_one_is_asked_again(folder, asked):
    model = make_model("olmoe")
    first = trust.prove(model, "m")
    assert trust.prove(model, "m") == first
    assert len(asked) == 1
    (path,) = folder.iterdir()
    whole = path.read_text()
    for damaged in ("", whole[:-9], whole.replace("true", "false"), json.dumps([1]), "\xff"):
        path.write_text(damaged, encoding="latin-1")
        assert trust.prove(model, "m") == first
        assert path.read_text() == whole
    assert len(asked) == 6


def test_an_answer_that_cannot_be_kept_is_said(folder, asked):
    folder.write_text("no folder")
    model = make_model("olmoe")
    for _ in range(2):
        with pytest.warns(EvalWarning, match="cannot be written .* tested again by each run"):
            assert trust.prove(model, "m").outcome.agrees
    assert len(asked) == 2


def requests():
    header = "What is the sign of the root? 7 + 6 " * 4
    texts = [(header + ask, f" {one}") for ask in ("is", "the") for one in ("1 3", "the sign", "6")]
    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in texts]


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


def test_a_wrong_cache_is_refused_by_the_small_model_and_texts_are_whole(
    loaded, folder, monkeypatch
):
    whole = TransformersLM(loaded, 64)
    whole.shares = False
    expected = whole.loglikelihood(requests())
    plant(monkeypatch, "positions")
    for _ in range(2):  # the second LM reads what the first one kept
        wary = TransformersLM(loaded, 64)
        with pytest.warns(EvalWarning, match="small model .* off by up to .* computed whole"):
            assert wary.loglikelihood(requests()) == expected
        (check,) = wary.sharing
        assert (check.what, check.agrees, check.tolerance) == (trust.SMALL, False, trust.PROVEN)
    right = trust.Proof(trust.SharingOutcome(True, 0.0, 1e-5))
    monkeypatch.setattr(trust, "prove", lambda *_: right)
    wary = TransformersLM(loaded, 64)
    with pytest.warns(EvalWarning, match="log-likelihoods are then off by up to"):
        wary.loglikelihood(requests())
    _, check = wary.sharing
    assert (check.what, check.agrees) == ("log-likelihoods", False)
    assert check.difference > check.tolerance == pytest.approx(1e-4, rel=0.1)


def test_a_model_without_a_small_one_is_compared_itself(loaded, folder, monkeypatch):
    monkeypatch.setattr(trust, "miniature", lambda *_, **_options: make_model("olmoe"))
    lm = TransformersLM(loaded, 64)
    with pytest.warns(EvalWarning, match="it is a Qwen3MoeForCausalLM, not a OlmoeForCausalLM"):
        lm.loglikelihood(requests())
    assert lm.shares
    assert [check.what for check in lm.sharing] == ["log-likelihoods"]
    assert not folder.exists()
    plant(monkeypatch, "trees")
    wary = TransformersLM(loaded, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wary.loglikelihood(requests())
    assert not wary.shares


def test_the_small_model_leaves_random_numbers_alone():
    model = make_model("olmoe")
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    with torch.no_grad():
        trust._small(model)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_on_a_gpu_the_small_model_agrees_and_16_bits_are_not_refused(kind, loaded, folder):
    """gpt-oss among them, whose log-likelihoods in bfloat16 differ by 0.8 between batches."""
    model = make_model(kind).to("cuda", torch.bfloat16)
    lm = TransformersLM(replace(loaded, model=model), 4096)
    pairs = trust.drawn(np.arange(2, 64), 8)
    lm._score(lm._arrange(pairs))
    assert lm.shares
    assert [check.agrees for check in lm.sharing] == [True, True]
    assert lm.sharing[0].difference < trust.PROVEN


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_dense_model_has_a_small_one_too(kind):
    model = dense_model(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proof = trust.prove(model, kind)
    assert proof.unknown == ""
    assert (proof.outcome.agrees, proof.outcome.difference <= trust.PROVEN) == (True, True)

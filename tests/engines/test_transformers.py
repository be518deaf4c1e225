"""The engine against lm-eval's own `hf` model, and against one question at a time."""

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from dsmoe_eval.engines import load_model
from dsmoe_eval.engines.transformers import TransformersLM
from dsmoe_eval.errors import UserError


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def lm(loaded):
    return TransformersLM(loaded, batch_tokens=256)


@pytest.fixture(scope="module")
def reference(loaded):
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=7)


PROMPTS = (
    "In biology, what is the maker of the cell?",
    "What is the sign of the root?",
    "What is 7 + 6?",
    "In law, the keeper of the charge is",
)
CONTINUATIONS = (" 1", " 13", " the", " the maker of the cell", "?")


def _requests():
    pairs = [(prompt, continuation) for prompt in PROMPTS for continuation in CONTINUATIONS]
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
        for i, pair in enumerate(pairs)
    ]


def test_loglikelihoods_equal_lm_evals_own_model(lm, reference):
    ours = lm.loglikelihood(_requests())
    theirs = reference.loglikelihood(_requests(), disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], atol=1e-4)
    assert [bool(g) for _, g in ours] == [bool(g) for _, g in theirs]


def test_batch_composition_does_not_change_answers(lm, loaded):
    together = lm.loglikelihood(_requests())
    alone = TransformersLM(loaded, batch_tokens=1)
    one_by_one = [alone.loglikelihood([request])[0] for request in _requests()]
    np.testing.assert_allclose([a for a, _ in together], [a for a, _ in one_by_one], atol=1e-4)


def test_one_forward_serves_all_single_token_options(lm):
    before = lm.forward_tokens
    single = [
        Instance(request_type="loglikelihood", doc={}, arguments=(PROMPTS[0], f" {w}"), idx=i)
        for i, w in enumerate(("the", "what", "is", "of"))
    ]
    lm.loglikelihood(single)
    assert lm.forward_tokens - before == len(lm.tok_encode(PROMPTS[0]))


def _generations(settings):
    return [
        Instance(request_type="generate_until", doc={}, arguments=(p, dict(settings)), idx=i)
        for i, p in enumerate(PROMPTS)
    ]


def test_generation_equals_lm_evals_own_model(lm, reference):
    settings = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}
    ours = lm.generate_until(_generations(settings))
    theirs = reference.generate_until(_generations(settings), disable_tqdm=True)
    assert [text.strip() for text in ours] == [text.strip() for text in theirs]


def test_generation_stops_before_a_stop_string(lm):
    whole = lm.generate_until(_generations({"until": [], "max_gen_toks": 6}))
    stop = whole[0].split()[-1][-1] if whole[0].split() else "x"
    cut = lm.generate_until(_generations({"until": [stop], "max_gen_toks": 6}))
    assert cut[0] == whole[0].partition(stop)[0]


def test_what_does_not_fit_is_refused_not_cut(lm):
    long = Instance(request_type="loglikelihood", doc={}, arguments=("the " * 200, " sign"), idx=0)
    with pytest.raises(UserError, match="201 tokens and 0 for its answer do not fit"):
        lm.loglikelihood([long])
    with pytest.raises(UserError, match="do not fit into the model's 128 positions"):
        lm.generate_until(_generations({"until": [], "max_gen_toks": 125}))


@torch.no_grad()
def test_a_loglikelihood_by_hand(lm, loaded):
    (got, greedy), *_ = lm.loglikelihood(_requests()[1:2])
    context = loaded.tokenizer.encode(PROMPTS[0])
    whole = loaded.tokenizer.encode(PROMPTS[0] + " 13")
    logits = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    rows = range(len(context) - 1, len(whole) - 1)
    expected = sum(float(logits[row, whole[row + 1]]) for row in rows)
    assert got == pytest.approx(expected, abs=1e-4)
    assert greedy == all(int(logits[row].argmax()) == whole[row + 1] for row in rows)

"""Scored and generated answers, saliency and fine-tuning on a GPU, against the same on a CPU."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dsmoe_eval.engines import load_engine
from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.variants.sft import adapter, train_adapter

from ..conftest import ARCHITECTURES, make_model
from ..engines.transformers.test_lm import CONTINUATIONS, PROMPTS
from ..variants.test_sft import PAIRS, SETTINGS, Letters

pytestmark = pytest.mark.gpu
GPU = "cuda"


@pytest.fixture(scope="module")
def engines():
    """lab-poly on a CPU and on a GPU."""
    return load_engine("lab-poly", device="cpu"), load_engine("lab-poly", device=GPU)


def test_log_likelihoods_are_those_of_a_cpu(engines):
    assert [engine.device for engine in engines] == ["cpu", GPU]
    pairs = [(prompt, end) for prompt in PROMPTS for end in CONTINUATIONS]
    cpu, gpu = (engine.language_model().log_likelihoods(pairs) for engine in engines)
    np.testing.assert_allclose([v for v, _ in gpu], [v for v, _ in cpu], atol=1e-4)
    assert [bool(greedy) for _, greedy in gpu] == [bool(greedy) for _, greedy in cpu]


def test_log_likelihoods_do_not_depend_on_the_batch(engines):
    lm = engines[1].language_model()
    pairs = [(prompt, end) for prompt in PROMPTS for end in CONTINUATIONS]
    alone = [lm.log_likelihoods([pair])[0][0] for pair in pairs]
    np.testing.assert_allclose([v for v, _ in lm.log_likelihoods(pairs)], alone, atol=1e-4)


def test_greedy_answers_are_those_of_a_cpu(engines):
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    cpu, gpu = (
        engine.language_model().complete([(prompt, settings) for prompt in PROMPTS])
        for engine in engines
    )
    assert gpu == cpu


def test_a_draw_depends_on_its_seed_and_not_on_the_batch(engines):
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 2.0}
    asked = [(prompt, settings) for prompt in PROMPTS]
    lm = engines[1].language_model(seed=5)
    together = lm.complete(asked)
    assert [lm.complete([one])[0] for one in asked] == together
    assert lm.complete(asked[::-1])[::-1] == together
    assert engines[1].language_model(seed=6).complete(asked) != together


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_saliency_is_that_of_a_cpu(architecture, batch):
    model = make_model(architecture).requires_grad_(False)
    expected = Saliency(model)(*batch)
    got = Saliency(model.to(GPU))(*[one.to(GPU) for one in batch]).cpu()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


BACKWARD = """
import torch
from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.models import load_model
model = load_model("lab-poly", "cuda").model.requires_grad_(False)
ids = torch.ones(2, 9, dtype=torch.long, device="cuda")
assert Saliency(model)(ids, torch.ones_like(ids)).isfinite().all()
"""


def test_the_first_backward_pass_says_nothing():
    """The thread of the backward passes has a CUDA context before cuBLAS looks for one there."""
    command = [sys.executable, "-W", "error:Attempting to run cuBLAS", "-c", BACKWARD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "CUDA context" not in done.stderr


def test_fine_tuning_learns_and_leaves_the_model_as_it_was(tmp_path):
    model = make_model("qwen3_moe").to(GPU)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_adapter(model, Letters(), PAIRS, SETTINGS, 0, tmp_path / "adapter")
    with adapter(model, tmp_path / "adapter"), torch.no_grad():
        for prompt, answer in PAIRS:
            ids = torch.tensor([Letters().encode(prompt)], device=GPU)
            assert int(model(ids).logits[0, -1].argmax()) == Letters().encode(answer)[0]
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)

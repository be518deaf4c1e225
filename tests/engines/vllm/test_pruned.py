"""A pruned checkpoint in vLLM: its log-probabilities are those of the masked model."""

import os

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import torch

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.models import bake, load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, steer

pytestmark = [pytest.mark.vllm, pytest.mark.full]

TEXTS = ["In law, what is right?", "In physics, what is energy?"]


@torch.no_grad()
def test_a_pruned_checkpoint_answers_as_the_masked_model(tmp_path, record_property):
    loaded = load_model("lab-poly", "cpu")
    profile = trial_profile(loaded.identity, Intervention(kind="mask", strength=1.0), range(3, 15))
    bake("lab-poly", profile, tmp_path / "pruned", "cpu")
    prompts = [loaded.tokenizer(text)["input_ids"] for text in TEXTS]

    def expected():
        rows = [loaded.model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
        return torch.stack(rows).log_softmax(-1)

    base = expected()
    with steer(loaded.model, profile):
        masked = expected()
    engine = load_engine(str(tmp_path / "pruned"), "vllm", enforce_eager=True)
    try:
        assert engine.identity.experts == 12
        found = engine.engine.log_probabilities(prompts)
    finally:
        engine.close()
    difference = float((torch.as_tensor(found) - masked).abs().max())
    record_property("difference", difference)
    assert difference < 1e-5 < 0.1 < float((base - masked).abs().max())

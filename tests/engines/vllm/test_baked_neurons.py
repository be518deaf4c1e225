"""A dense checkpoint into which neurons are baked: vLLM answers what the steered original does."""

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

from dsmoe_eval.models import bake
from dsmoe_eval.steering import steer

from ...dense import neuron_profile, saved_dense

pytestmark = [pytest.mark.vllm, pytest.mark.full]
PROMPTS = [[5, 9, 17, 33, 60], [7, 8, 21]]


def test_a_baked_checkpoint_is_served(tmp_path):
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    model = saved_dense("llama", tmp_path / "model")
    profile = neuron_profile(model, "amplify", 3.0, range(6))
    bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    served = LLM(
        model=str(tmp_path / "baked"), dtype="float32", enforce_eager=True, max_model_len=128,
        block_size=32, distributed_executor_backend="uni", skip_tokenizer_init=True,
        max_logprobs=-1, seed=0,
    )  # fmt: skip
    asked = SamplingParams(max_tokens=1, temperature=0, logprobs=-1, detokenize=False)
    answers = served.generate([TokensPrompt(prompt_token_ids=one) for one in PROMPTS], asked)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        with steer(model, profile), torch.no_grad():
            steered = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        with torch.no_grad():
            base = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        found = torch.zeros(len(steered))
        for token, value in answer.outputs[0].logprobs[0].items():
            found[token] = value.logprob
        assert (found - steered).abs().max() < 1e-4 < 0.1 < (base - steered).abs().max()

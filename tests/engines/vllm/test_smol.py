"""The real language model: vLLM answers, steered and not, what transformers answers."""

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
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention

pytestmark = [pytest.mark.vllm, pytest.mark.full]

TEXTS = [
    "A cell is the smallest unit of life that can",
    "In law, a contract is an agreement between two or more parties. It",
]
KINDS = [
    Intervention(kind="bias", strength=0.2),
    Intervention(kind="reweight", strength=3.0),
    Intervention(kind="mask", strength=1.0),
]


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-smol", device="cpu")


@pytest.fixture(scope="module")
def theirs():
    engine = load_engine("lab-smol", "vllm", enforce_eager=True)
    yield engine
    engine.close()


@torch.no_grad()
def log_probabilities(engine, prompts):
    rows = [engine.loaded.model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    return torch.stack(rows).log_softmax(-1)


@pytest.mark.parametrize("intervention", [None, *KINDS], ids=lambda one: one and one.kind)
def test_log_probabilities(ours, theirs, intervention, record_property):
    prompts = [ours.loaded.tokenizer(text)["input_ids"] for text in TEXTS]
    base = log_probabilities(ours, prompts)
    if intervention is None:
        expected, found = base, theirs.engine.log_probabilities(prompts)
    else:
        profile = trial_profile(ours.identity, intervention, range(8))
        with ours.steer(profile), theirs.steer(profile):
            expected = log_probabilities(ours, prompts)
            found = theirs.engine.log_probabilities(prompts)
        assert (expected - base).abs().max() > 0.01
    difference = float((found - expected).abs().max())
    record_property("difference", difference)
    assert difference < 1e-4


@pytest.mark.parametrize("intervention", KINDS, ids=lambda one: one.kind)
def test_probes(ours, theirs, intervention):
    profile = trial_profile(ours.identity, intervention, range(8))
    one, two = (engine.probe(profile, TEXTS) for engine in (ours, theirs))
    assert two.null_max_difference == one.null_max_difference == 0.0
    # The eighth and the ninth expert may be closer than rounding.
    assert two.selection_changed == pytest.approx(one.selection_changed, abs=0.005)
    assert two.active_experts == one.active_experts
    prompts = [ours.loaded.tokenizer(text)["input_ids"] for text in TEXTS]
    base = log_probabilities(ours, prompts)
    with ours.steer(profile):
        change = (log_probabilities(ours, prompts) - base).abs().max()
    assert two.logit_max_change == pytest.approx(float(change), abs=1e-4)

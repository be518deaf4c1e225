"""Log-probabilities against float64."""

import torch

from dsmoe_eval.engines.transformers.whole_forward import log_probabilities


def test_log_probabilities_are_precise_for_any_vocabulary():
    """An error that grows with the vocabulary and has one sign adds up over a text's tokens."""
    generator = torch.Generator().manual_seed(3)
    for vocabulary in (50, 50_000, 200_000):
        logits = 3 * torch.randn(16, vocabulary, generator=generator)
        exact = logits.double().log_softmax(-1)
        assert float((log_probabilities(logits) - exact).abs().max()) < 2.5e-6
        half = log_probabilities(logits.bfloat16())
        assert half.dtype == torch.float32

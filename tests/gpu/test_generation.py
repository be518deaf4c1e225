"""What a step of generation waits for on a GPU, and how its experts are computed."""

import warnings

import pytest
import torch
from transformers import GenerationConfig

from dsmoe_eval.engines.requests import Request
from dsmoe_eval.engines.transformers.generate import (
    SELECTIONS_PER_EXPERT,
    _experts_for,
    _groups_in_one_kernel,
    generate,
)
from dsmoe_eval.models import load_model

pytestmark = pytest.mark.gpu
ROWS = 16


def waits(work):
    """Count how often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_waits_for_the_gpu_only_where_transformers_does(dtype, monkeypatch):
    """And every few steps for the search.

    Some ways to compute experts wait in each layer, so the bound is plain `generate` of the model.
    """
    loaded = load_model("lab-poly", "cuda")
    loaded.model.to(dtype)
    monkeypatch.setattr(loaded.model, "generation_config", GenerationConfig())  # no end of text
    prompt = (5, 6, 7)
    ids = torch.tensor([prompt] * ROWS, device="cuda")

    def plain(limit):
        how = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": limit}
        loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **how)

    def ours(limit):
        answers = generate(loaded, [Request(prompt, limit, stops=("@",)) for _ in range(ROWS)])
        assert {len(answer.tokens) for answer in answers} == {limit}

    counts = []
    for work in (ours, plain):
        work(4)
        short, long = (waits(lambda limit=limit, work=work: work(limit)) for limit in (24, 48))
        counts.append(long - short)
    assert counts[0] <= counts[1] + 24 // 4 + 2


def test_grouped_products_stay_in_a_large_batch():
    loaded = load_model("lab-poly", "cuda", "grouped_mm")
    config = loaded.model.config
    least = SELECTIONS_PER_EXPERT * config.num_local_experts // config.num_experts_per_tok
    for dtype in (torch.float32, torch.bfloat16):
        loaded.model.to(dtype)
        one_kernel = _groups_in_one_kernel(loaded.model)
        assert one_kernel <= (dtype == torch.bfloat16)
        for rows, stays in ((1, False), (least - 1, False), (least, one_kernel)):
            with _experts_for(loaded.model, rows):
                assert config._experts_implementation == (
                    "dsmoe_grouped_mm" if stays else "grouped_mm"
                )
            assert config._experts_implementation == "grouped_mm"

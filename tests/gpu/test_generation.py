"""What a step of generation waits for on a GPU, and how its experts are computed."""

import dataclasses
import warnings

import pytest
import torch

from dsmoe_eval.engines.requests import Request
from dsmoe_eval.engines.transformers.generate import _experts_for, generate
from dsmoe_eval.models import load_model

pytestmark = pytest.mark.gpu


def test_a_step_waits_for_the_gpu_only_where_transformers_does():
    """For what transformers reads in each step, and every few steps for the search."""
    loaded = load_model("lab-poly", "cuda")
    requests = [Request((5, 6, 7), 48, stops=("@",)) for _ in range(16)]
    generate(loaded, requests)
    torch.cuda.set_sync_debug_mode("warn")
    waits = []
    try:
        for limit in (24, 48):
            some = [dataclasses.replace(one, limit=limit) for one in requests]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                generate(loaded, some)
            waits.append(sum("synchronizing" in str(one.message) for one in caught))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits[1] - waits[0] <= 2 * 24 + 24 // 4 + 2


def test_grouped_products_stay_in_a_large_batch():
    loaded = load_model("lab-poly", "cuda", "grouped_mm")
    config = loaded.model.config
    for rows, name in ((1, "grouped_mm"), (64, "dsmoe_grouped_mm")):
        with _experts_for(loaded.model, rows):
            assert config._experts_implementation == name
        assert config._experts_implementation == "grouped_mm"

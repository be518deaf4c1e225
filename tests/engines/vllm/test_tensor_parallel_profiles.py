"""Two profiles and none in one batch, with all that moves tokens about: chunks, cache, two workers.

Compared with transformers under the definition of each intervention.
"""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch

from . import test_steered_vllm as alone

pytestmark = [pytest.mark.vllm, pytest.mark.full]

CHUNK, BLOCK = 48, 32
"""Tokens per step, and tokens per block of the prefix cache; the longest prompt has 100."""


def test_profiles_share_batches_of_chunks_on_two_workers(tmp_path, monkeypatch, record_property):
    generator = torch.Generator().manual_seed(2)
    start = torch.randint(2, alone.VOCABULARY, (80,), generator=generator).tolist()
    prompts = [[*start, *end] for end in ([5], list(range(20, 40)))] + [alone.PROMPTS[1]]
    monkeypatch.setattr(alone, "PROMPTS", prompts)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    reference = alone.Reference("qwen3_moe", alone.build("qwen3_moe", tmp_path))
    engine = alone.start(
        tmp_path, tensor_parallel_size=2, distributed_executor_backend="mp",
        max_num_batched_tokens=CHUNK, enable_chunked_prefill=True, enable_prefix_caching=True,
        block_size=BLOCK,
    )  # fmt: skip
    steering = {
        one.id: one
        for kind in ("bias", "reweight")
        for one in [alone.profile_of(engine, alone.INTERVENTIONS[kind])]
    }
    for one in steering.values():
        engine.load(one)
    expected = {name: reference.log_probabilities(steering.get(name)) for name in (None, *steering)}
    pairs = [(at, name) for at in range(len(prompts)) for name in expected]
    asked = [prompts[at] for at, _ in pairs], [name for _, name in pairs]
    rows = torch.stack([expected[name][at] for at, name in pairs])
    first = engine.log_probabilities(*asked)
    cached = [one.num_cached_tokens for one in engine._generate(asked[0], {}, asked[1])]
    second = engine.log_probabilities(*asked)
    alone.stop(engine)
    found = [alone.difference(one, rows) for one in (first, second)]
    record_property("differences", " ".join(f"{one:.1e}" for one in found))
    assert max(found) < alone.TOLERANCE
    assert cached == [(len(prompt) - 1) // BLOCK * BLOCK for prompt in asked[0]]
    assert max(cached) > CHUNK
    changed = [alone.difference(expected[name], expected[None]) for name in steering]
    assert min(changed) > 100 * alone.TOLERANCE

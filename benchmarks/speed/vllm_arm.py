"""vLLM engines to time, each in processes of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dsmoe_eval.engines.vllm import EXTENSION

CACHE, STEPS = 112, 32  # tokens before decoding; steps in a timing


class Vllm:
    """One vLLM engine, compiled, without prefix cache."""

    def __init__(self, folder: Path, prefill: int, **options: Any) -> None:
        from vllm import LLM

        longest = prefill + 256
        self.llm: Any = LLM(
            model=str(folder), skip_tokenizer_init=True, load_format="safetensors", seed=0,
            enforce_eager=False, enable_prefix_caching=False, max_model_len=longest,
            max_num_batched_tokens=longest, max_num_seqs=8,
            gpu_memory_utilization=0.3, **options,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.llm.llm_engine.model_config.get_vocab_size()
        self.tokens = torch.randint(vocabulary, (prefill,), generator=generator).tolist()
        self.requests = 0

    def prefill(self, _pair: int) -> float:
        """Seconds from a request with the whole prompt to its first token."""
        return self._request(self.tokens, 1)[0]

    def decode(self, _pair: int) -> float:
        """Seconds of a step, the mean of those after a request's first token."""
        return self._request(self.tokens[:CACHE], 1 + STEPS)[1] / STEPS

    def close(self) -> None:
        """End its processes."""
        self.llm.llm_engine.engine_core.shutdown()

    def _request(self, tokens: list[int], limit: int) -> tuple[float, float]:
        """Seconds to the first token, and from it to the last."""
        from vllm import SamplingParams

        wanted = SamplingParams(
            temperature=0.0, max_tokens=limit, ignore_eos=True, detokenize=False
        )
        engine, self.requests = self.llm.llm_engine, self.requests + 1
        start = time.perf_counter()
        engine.add_request(str(self.requests), {"prompt_token_ids": tokens}, wanted)
        seen: list[float] = []
        while engine.has_unfinished_requests():
            if engine.step():
                seen.append(time.perf_counter())
        return seen[0] - start, seen[-1] - seen[0]


@contextmanager
def engines(folder: Path, device: str, prefill: int) -> Iterator[tuple[Vllm, Vllm, Vllm]]:
    """Two plain engines and one with the extension."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if device == "cpu":
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    started: list[Vllm] = []
    try:
        for options in ({}, {}, {"worker_extension_cls": EXTENSION}):
            # One by one, so that those that started are closed where a later one fails.
            started.append(Vllm(folder, prefill, **options))  # noqa: PERF401
        yield started[0], started[1], started[2]
    finally:
        for engine in started:
            engine.close()

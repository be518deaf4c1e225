"""The start of vLLM with steerable routers and reproducible answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import UserError
from ...models.revisions import from_hub, split_revision

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.config import VllmConfig

EXTENSION = "dsmoe_eval.engines.vllm.worker.SteeringExtension"
"""The argument of `vllm serve --worker-extension-cls`."""
FORCING = "dsmoe_eval.engines.vllm.forcing:ForcedTokens"
"""The logits processor of forced continuations, by which texts are scored."""
PROCESSOR = "dsmoe_eval.engines.vllm.requests:ProfileRequests"
"""The argument of `vllm serve --logits-processors`: it refuses requests with unknown profiles."""


def start_llm(name: str, place: str, dtype: str, options: Mapping[str, object]) -> LLM:
    """Return a running `vllm.LLM` whose workers can be steered.

    Args:
        name: the model's name, for errors.
        place: the model's folder or hub id.
        dtype: as for `SteeredVllm`.
        options: further options of vLLM.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
    """
    refuse_speculation(options)
    quieten()
    with _refusals(name):
        import vllm

        return vllm.LLM(**_arguments(place, dtype, options))


def engine_config(name: str, place: str, dtype: str, options: Mapping[str, object]) -> VllmConfig:
    """Return the configuration that `start_llm` would start with; nothing is loaded.

    Raises:
        UserError: as `start_llm`, where the configuration shows it.
    """
    quieten()
    with _refusals(name):
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(**_arguments(place, dtype, options)).create_engine_config()


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn vLLM's errors about a model into one sentence."""
    try:
        yield
    except ImportError as error:
        raise UserError("vLLM is not installed; pip install 'dsmoe-eval[vllm]'") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"vLLM cannot run model {name!r}: {reason_of(error)}") from error


def _arguments(place: str, dtype: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of `vllm.LLM`, after the settings of the process."""
    from vllm.platforms import current_platform

    # With the scheduler in a separate process, the batches, and so the last bits, depend on which
    # requests arrive first; with the scheduler in this process they are always the same.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if options.get("enable_expert_parallel") and current_platform.is_cpu():
        # 0.32: a worker crashes with signal 11 in the experts' kernel, with or without steering.
        raise UserError("vLLM has no expert parallelism on CPUs; leave out expert_parallel")
    fixed = {
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "vllm",  # no sampling settings of the checkpoint
        "worker_extension_cls": EXTENSION,
        "logits_processors": [PROCESSOR, FORCING],
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
    }
    asked: dict[str, object] = {
        "seed": 0, "skip_tokenizer_init": True, "use_tqdm_on_load": False,  # prompts are token ids
    }  # fmt: skip
    if current_platform.is_cpu():
        # vLLM's 128 would leave up to 127 tokens of a context out of the prefix cache.
        asked["block_size"] = 32
    model, revision = split_revision(place)
    return {
        "dtype": precision(place, dtype), **asked, **options, **fixed,
        "model": model, "revision": revision, "tokenizer_revision": revision,
    }  # fmt: skip


def quieten(level: str = "ERROR") -> None:
    """Turn vLLM's usage reports off, here and in each process that it starts, and show its errors.

    To send the reports, set `VLLM_NO_USAGE_STATS=0`; to see more, `VLLM_LOGGING_LEVEL=INFO`.

    Args:
        level: the level of vLLM's messages, of which it writes some sixty lines at each start; a
            run shows its progress itself.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", level)
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def refuse_speculation(options: Mapping[str, object]) -> None:
    """Refuse vLLM's options of speculative decoding.

    Raises:
        UserError: there is one.
    """
    for name in ("speculative_config", "spec_method", "spec_model", "spec_tokens"):
        if options.get(name) is not None:
            raise UserError(
                f"{name}: speculative decoding drafts tokens that no profile steers, so it is "
                "refused; leave it out"
            )


def precision(place: str, asked: str) -> str:
    """Return the dtype for vLLM, whose `auto` would convert a float32 checkpoint to 16 bits."""
    from transformers import PreTrainedConfig

    if asked != "auto":
        return asked
    config, _ = PreTrainedConfig.get_config_dict(**from_hub(place))
    return "float32" if "float32" in (config.get("dtype"), config.get("torch_dtype")) else "auto"


def reason_of(error: Exception) -> str:
    """Return the line that names the cause; the first line of pydantic only counts errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Value error, ")]
    return (told or lines or [type(error).__name__])[0].removeprefix("Value error, ")

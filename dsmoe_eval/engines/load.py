"""The loading of a model into the engine that a run names."""

from __future__ import annotations

from ..errors import UserError
from ..models.loading import load_model, load_tokenizer
from ..steering import EXPERTS, Sites
from .base import BATCH_TOKENS, Engine


def load_engine(
    model: str,
    engine: str = "transformers",
    device: str | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    experts_implementation: str | None = None,
    dtype: str | None = None,
    attn_implementation: str | None = None,
    sites: Sites = EXPERTS,
    **vllm_options: object,
) -> Engine:
    """Load a model into an engine.

    Args:
        model: as for `load_model`.
        engine: `transformers` or `vllm`.
        device: for transformers only; vLLM chooses its devices.
        batch_tokens: limit of tokens per forward pass.
        experts_implementation: for transformers only, its method of computing experts.
        dtype: as for `load_model`.
        attn_implementation: for transformers only, its method of computing attention.
        sites: as for `load_model`.
        vllm_options: options of vLLM, such as `tensor_parallel_size`, or `enforce_eager`, without
            which vLLM compiles the model and shows no routing.

    Raises:
        UserError: the model or the engine is not available, or `device` is given with vLLM.
    """
    if engine == "transformers":
        from .transformers.engine import TransformersEngine

        loaded = load_model(
            model,
            device,
            experts_implementation,
            dtype=dtype,
            attn_implementation=attn_implementation,
            sites=sites,
        )
        return TransformersEngine(loaded, batch_tokens)
    if attn_implementation is not None:
        raise UserError("attn_implementation is for the transformers engine; leave it out")
    if device is not None:
        raise UserError("--device is for the transformers engine; vLLM takes what it finds")
    from .vllm.engine import start

    if dtype is not None:
        vllm_options["dtype"] = dtype
    return start(model, load_tokenizer(model), batch_tokens, sites=sites, **vllm_options)

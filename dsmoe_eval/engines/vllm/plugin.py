"""vLLM loads this in each of its processes (entry point `vllm.general_plugins`).

It makes vLLM read the configuration of deepseek-moe-16b without remote code: vLLM carries the
model, `DeepseekForCausalLM`, but neither it nor transformers knows `model_type: deepseek`. Steering
needs no plugin: vLLM imports it where it is asked for, by `worker_extension_cls`.
"""

from __future__ import annotations


def register() -> None:
    """Teach `AutoConfig` the model type `deepseek`; more than once does no harm."""
    from transformers import AutoConfig, LlamaConfig

    # The model is a Llama whose MLPs have experts; what is about those is in its config.json.
    config = type("DeepseekConfig", (LlamaConfig,), {"model_type": "deepseek"})
    AutoConfig.register("deepseek", config, exist_ok=True)

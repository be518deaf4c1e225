"""The plugin that vLLM loads in each of its processes (entry point `vllm.general_plugins`).

With it vLLM reads the configuration of deepseek-moe-16b without remote code: vLLM has the model
class, `DeepseekForCausalLM`, but neither it nor transformers knows `model_type: deepseek`. Steering
needs no plugin: vLLM imports it if `worker_extension_cls` names it.
"""

from __future__ import annotations


def register() -> None:
    """Register the model type `deepseek` with `AutoConfig`; repeated calls are harmless."""
    from transformers import AutoConfig, LlamaConfig

    # The model is a Llama whose MLPs have experts; its config.json has the settings of the experts.
    config = type("DeepseekConfig", (LlamaConfig,), {"model_type": "deepseek"})
    AutoConfig.register("deepseek", config, exist_ok=True)

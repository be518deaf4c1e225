"""deepseek-moe-16b's configuration is read without remote code."""

import json

from transformers import AutoConfig

from dsmoe_eval.engines.vllm.plugin import register


def test_deepseek_is_known(tmp_path):
    written = {
        "model_type": "deepseek",
        "architectures": ["DeepseekForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
        "n_routed_experts": 64,
        "rope_theta": 5000.0,
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    register()
    register()
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert config.model_type == "deepseek"
    assert config.n_routed_experts == 64
    assert config.rope_parameters["rope_theta"] == 5000.0

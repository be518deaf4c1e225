"""EMO's checkpoints in Qwen2-MoE's form: the same outputs as by the authors' own code.

The authors' code (allenai/EMO, commit fb07783, src/hf_trust_remote_code/emo) needs transformers
4.57, so it ran once, in 4.57.1, on the checkpoint that `emo_checkpoint` writes; `LOGITS` are some
of its outputs. The weights are drawn by NumPy's RandomState, whose numbers never change.
"""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from dsmoe_eval.cli import main
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import bare_config, convert, load_model
from dsmoe_eval.models.conversion import convert_config
from dsmoe_eval.models.places import locate
from dsmoe_eval.registry import load_model_card

from .emo import CONFIG, EXPERTS, emo_checkpoint, weights

IDS = [3, 1, 4, 15, 9, 26, 5, 35, 8, 9, 7, 9]
# Of the last three tokens, the logits 0 to 4.
LOGITS = [
    [0.34301, 0.43609, -1.26458, -1.28568, -0.91976],
    [-0.70745, -0.11378, -2.86168, -2.63555, -0.29571],
    [-0.71246, 1.76417, -0.21595, 2.41958, -3.40444],
]


def load(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    assert not any(found[one] for one in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == dtype
    return model.eval()


@torch.no_grad()
def outputs(folder, **settings):
    return load(folder, **settings)(torch.tensor([IDS])).logits[0, -3:, :5]


@pytest.mark.parametrize("shards", [1, 5])
def test_the_outputs_are_those_of_the_authors_code(tmp_path, shards):
    convert(emo_checkpoint(tmp_path / "emo", shards), tmp_path / "converted")
    torch.testing.assert_close(
        outputs(tmp_path / "converted"), torch.tensor(LOGITS), rtol=0, atol=1e-4
    )
    assert not list(tmp_path.glob("converted/*.py"))


def test_the_shared_expert_alone_is_changed_and_by_a_power_of_two(tmp_path):
    convert(emo_checkpoint(tmp_path / "emo"), tmp_path / "converted")
    before, after = weights(), load_file(tmp_path / "converted" / "model.safetensors")
    shared = f"model.layers.1.mlp.experts.{EXPERTS - 1}."
    assert torch.equal(
        after["model.layers.1.mlp.shared_expert.down_proj.weight"],
        2 * before[f"{shared}down_proj.weight"],
    )
    assert not after["model.layers.1.mlp.shared_expert_gate.weight"].any()
    same = [name for name in before if name in after and not name.endswith("mlp.gate.weight")]
    assert len(same) == len(before) - 2 * (1 + 2 + 3)  # routers, norms and the shared expert
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_weights_may_be_rounded_to_half_their_size(tmp_path):
    source = emo_checkpoint(tmp_path / "emo")
    options = ["convert", str(source), "--output", str(tmp_path / "half"), "--dtype", "bfloat16"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.output == (
        f"{tmp_path / 'half'}: {source} in Qwen2-MoE's form; check it: dsmoe-eval probe "
        f"{tmp_path / 'half'}\n"
    )
    sizes = [
        sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for folder in (tmp_path / "half", source)
    ]
    assert sizes[0] < 0.6 * sizes[1]
    rounded = outputs(tmp_path / "half", dtype=torch.bfloat16).float()
    assert 0 < (rounded - torch.tensor(LOGITS)).abs().max() < 1


def test_the_cards_configuration_is_the_converted_one():
    """Every key of the card's config, from the shapes in the authors' scripts."""
    published = CONFIG | {
        "hidden_size": 2048, "intermediate_size": 1024, "num_attention_heads": 16,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "vocab_size": 100352,
    }  # fmt: skip
    for name in ("emo-1b14b-1t", "stdmoe-1b14b-1t"):
        card = load_model_card(name)
        converted = convert_config(published, "config.json")
        assert card.config.items() <= converted.items()
        assert converted["model_type"] == card.architecture
        assert converted["architectures"] == [card.class_name]
        assert published["model_type"] == card.converted_from


def test_what_is_not_converted_is_refused_with_the_command(tmp_path):
    source = str(emo_checkpoint(tmp_path / "emo"))
    for call, name in ((locate, "emo-1b14b-1t"), (load_model, source), (bare_config, source)):
        published = "allenai/Emo_1b14b_1T" if call is locate else name
        words = f"'{published}': .*'emo', and .*`dsmoe-eval convert {published} --output"
        if call is bare_config:  # without weights
            (tmp_path / "emo" / "model.safetensors").unlink()
        with pytest.raises(UserError, match=words):
            call(name)
    assert bare_config("emo-1b14b-1t").model_type == "qwen2_moe"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "olmoe"}, "model_type is 'olmoe'; only 'emo' is converted"),
        ({"num_shared_experts": 2}, "num_shared_experts is 2; only 1"),
        ({"num_shared_experts": "1"}, "num_shared_experts is '1', and should be a whole number"),
        ({"norm_topk_prob": True}, "sets norm_topk_prob"),
        ({"always_active_experts": [3]}, "sets always_active_experts"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "sets rope_scaling"),
        ({"num_experts": 64}, "has 128 rows, and config.json has num_experts 64"),
        ({"num_hidden_layers": 3}, r"lacks model.layers.2.mlp.gate.weight"),
    ],
)
def test_what_would_not_be_the_same_model_is_refused(tmp_path, changes, words):
    source = emo_checkpoint(tmp_path / "emo", **changes)
    with pytest.raises(UserError, match=words):
        convert(source, tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["emo"]


def test_a_part_that_is_missing_is_named(tmp_path):
    source = emo_checkpoint(tmp_path / "emo", shards=5)
    (source / "model-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-00003.safetensors.*; download"):
        convert(source, tmp_path / "converted")
    config = {key: value for key, value in CONFIG.items() if key != "rope_theta"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json: lacks rope_theta; download"):
        convert(source, tmp_path / "converted")
    with pytest.raises(UserError, match="exists already"):
        convert(source, source)
    for path in source.glob("*.safetensors"):
        path.unlink()
    (source / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="holds no "):
        convert(source, tmp_path / "converted")

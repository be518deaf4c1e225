"""Damaged model folders end in one sentence that names the file, before memory is allocated."""

import json
import shutil

import pytest

from dsmoe_eval.errors import EvalWarning, UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import load_model
from dsmoe_eval.models.loading import bare_config
from dsmoe_eval.models.sizes import count_parameters

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def setting(**changes):
    return lambda d: write(CONFIG, json.dumps(json.loads((d / CONFIG).read_text()) | changes))(d)


def write(name, content):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda d: (d / name).write_bytes(data)


def cut(size):
    return lambda d: write(WEIGHTS, (d / WEIGHTS).read_bytes()[:size])(d)


def remove(pattern):
    return lambda d: [path.unlink() for path in d.glob(pattern)]


def shard_missing(d):
    remove("*.safetensors")(d)
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    write("model.safetensors.index.json", json.dumps(index))(d)


DAMAGED = {
    "no weights": (remove("*.safetensors"), "model.safetensors", "download"),
    "empty weights": (cut(0), f"{WEIGHTS}: cut off", "download it again"),
    "cut header": (cut(50), f"{WEIGHTS}: cut off", "download it again"),
    "interrupted download": (cut(100_000), f"{WEIGHTS}: cut off", "download it again"),
    "last byte lost": (cut(-1), f"{WEIGHTS}: cut off", "download it again"),
    "absurd header": (write(WEIGHTS, b"\xff" * 99), f"{WEIGHTS}: cut off", "download it again"),
    "a shard missing": (shard_missing, "model-00001-of-00002.safetensors", "download"),
    "empty": (write(CONFIG, ""), CONFIG, "download"),
    "list": (write(CONFIG, "[]"), f"{CONFIG}: is a list", "download it again"),
    "null": (write(CONFIG, "null"), f"{CONFIG}: is a NoneType", "download it again"),
    "deep": (write(CONFIG, '{"a":' * 100_000), CONFIG, "download"),
    "endless": (write(CONFIG, " " * 10_000_001), "larger than the limit of 10 MB", "check the"),
    "not UTF-8": (write(CONFIG, b"\xff\xff{}"), CONFIG, "download"),
    "no type": (write(CONFIG, "{}"), "model_type", "download"),
    "nested type": (setting(model_type={"a": 1}), "model_type is {'a': 1}", "download"),
    "wide": (setting(hidden_size=10**9), f"{CONFIG}: hidden_size is 1000000000", "1,000,000"),
    "wide inside": (
        setting(text_config={"text_config": {"hidden_size": 10**9}}),
        f"{CONFIG}: hidden_size is 1000000000", "1,000,000",
    ),
    "no width": (setting(hidden_size=0), f"{CONFIG}: hidden_size is 0", "1 to"),
    "text as width": (setting(hidden_size="64"), f"{CONFIG}: hidden_size is '64'", "whole number"),
    "list as width": (setting(hidden_size=[64]), CONFIG, "download"),
    "no heads": (setting(num_attention_heads=0), "num_attention_heads is 0", "1 to"),
    "a million layers": (setting(num_hidden_layers=10**6), "num_hidden_layers is 1000000", "1,000"),
    "vocabulary": (setting(vocab_size=10**12), "vocab_size is 1000000000000", "100,000,000"),
    "true as a size": (setting(vocab_size=True), "vocab_size is True", "whole number"),
    "experts": (setting(num_local_experts=10**6), "num_local_experts is 1000000", "100,000"),
    "top-k": (setting(num_experts_per_tok=99), "num_experts_per_tok is 99", "download"),
    "other width": (setting(hidden_size=65), "other shapes", "download"),
    "more layers than weights": (
        setting(num_hidden_layers=6, layer_types=None), "lack 22 weights, such as model.layers.4",
        "num_hidden_layers in config.json",
    ),
    "activation": (setting(hidden_act="nonsense"), "'nonsense'", "check its files"),
    "dtype": (setting(dtype="nonsense"), "nonsense", "check its files"),
    "quantization": (setting(quantization_config=[1]), CONFIG, "check its files"),
    "rope": (setting(rope_parameters="x"), "rope_parameters", "check its files"),
    "no tokenizer": (remove("token*"), "its files hold no tokenizer", "add tokenizer.json"),
    "empty tokenizer": (write("tokenizer.json", ""), "its tokenizer", "download"),
    "list as tokenizer": (write("tokenizer.json", "[]"), "its tokenizer", "download"),
    "tokenizer's list": (write("tokenizer_config.json", "[]"), "its tokenizer", "download"),
    "generation": (write("generation_config.json", "[1]"), "mod", "check its files"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model; its name looks like rich's markup."""
    return shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / "[red]m[/red]")


@pytest.mark.parametrize("damage", DAMAGED)
def test_case_14_a_damaged_model_folder_is_refused_in_one_sentence(folder, damage):
    make, name, way_out = DAMAGED[damage]
    make(folder)
    with pytest.raises(UserError) as error:
        load_model(str(folder), "cpu")
    message = str(error.value)
    assert str(folder) in message
    assert name in message
    assert way_out in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["a million layers", "wide", "list", "nested type", "deep"])
def test_case_14_an_absurd_configuration_is_never_built(folder, damage):
    """Neither for a probe without weights nor for the estimate of a plan."""
    DAMAGED[damage][0](folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="config"):
        bare_config(str(folder))
    assert count_parameters(str(folder)) is None


def test_case_14_a_lack_of_memory_is_no_damage(folder, monkeypatch):
    import transformers

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(MemoryError):
        load_model(str(folder), "cpu")


def test_case_14_weights_left_over_are_named(folder):
    setting(num_hidden_layers=2)(folder)
    with pytest.warns(EvalWarning, match=r"22 weights, such as model\.layers\.2.*may be cut"):
        load_model(str(folder), "cpu")

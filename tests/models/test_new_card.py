"""Cards that the program writes, against the ten that people wrote, and against what is known."""

import json
import shutil

import pytest
import yaml
from transformers import AutoConfig

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import new_card as writing
from dsmoe_eval.models.new_card import card_name, new_card
from dsmoe_eval.models.prompt_format import MARKERS
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import SteeringError

from ..engines.chatting import TURNS, chat_tokenizer

CARDS = {name: load_model_card(name) for name in builtin_names("models")}
REVISION = "0123456789abcdef0123456789abcdef01234567"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
# What no file of a model says, at any model.
ALWAYS_UNKNOWN = {"licence", "parameters.published"}
# Two ways to say one rule (tests/cards/test_models.py), and a rule that is not measured.
MEASURED_AS = {("softmax-topk", False): ("softmax", True), ("sparsemixer", False): ("other", False)}


def template(start, opened, end=""):
    """A template with marks of thinking, which perhaps opens it, or ends it at once."""
    past = "{% if false %}" + start + "{% endif %}"
    return past + TURNS + ASKS + (start + end if opened else "") + "{% endif %}"


def folder_of(card, root):
    """A folder as in the hub's cache, with the card's configuration as the hub has it."""
    folder = root / f"models--{card.hub_id.replace('/', '--')}" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    content = {
        "model_type": card.architecture, "architectures": [card.class_name],
        "torch_dtype": card.weights, "eos_token_id": 1, "transformers_version": "4.55.0",
        **card.config,
    }  # fmt: skip
    if card.expert_weights:
        content["quantization_config"] = {"quant_method": card.expert_weights}
    (folder / "config.json").write_text(json.dumps(content))
    if card.format == "base":
        chat_tokenizer(None).save_pretrained(folder)
    elif card.format == "chat":
        chat_tokenizer().save_pretrained(folder)
    else:
        # gpt-oss' template has the marks, and its turn begins with neither; the others open it.
        opened = card.architecture != "gpt_oss"
        chat_tokenizer(template(card.think_start_token, opened)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.transformers])
def test_the_cards_of_people_are_those_of_the_program(name, tmp_path):
    card = CARDS[name]
    new = new_card(str(folder_of(card, tmp_path)))
    assert new.probe.passed
    routing = card.routing
    named = (routing.function, routing.renormalised)
    function, renormalised = MEASURED_AS.get(named, named)
    expected = card.model_copy(
        update={
            "name": card.hub_id.partition("/")[2].lower(),
            "revision": REVISION,
            "routing": routing.model_copy(
                update={"function": function, "renormalised": renormalised}
            ),
            "parameters": card.parameters.model_copy(update={"published": None}),
            "licence": None, "notes": None, "sources": new.card.sources, "converted_from": None,
        }
    )  # fmt: skip
    assert new.card.model_dump() == expected.model_dump()
    unknown = set(ALWAYS_UNKNOWN)
    unknown |= {"answer_tokens"} if card.format == "reasoning" else set()
    # A base model may come with a template, and gpt-oss' does not open its thinking.
    unknown |= {"format"} if card.format == "chat" or card.architecture == "gpt_oss" else set()
    unknown |= {"routing"} if function == "other" else set()
    assert set(new.unknown) == unknown


def test_the_tenth_is_refused_as_remote_code(tmp_path):
    card = CARDS["deepseek-moe-16b-base"]
    code = {"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}
    content = {"model_type": card.architecture, "auto_map": code, **card.config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"comes with the model: .* --remote-code deepseek "):
        new_card(str(tmp_path))


def small(folder, architecture="mixtral", **changes):
    """A folder with a small configuration and nothing else."""
    folder.mkdir(exist_ok=True)
    sizes = {
        "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 99,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 6,
        "num_experts_per_tok": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    content = {"model_type": architecture, **sizes, **changes}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def no_probe(monkeypatch):
    """No small model: a scoring rule is not known then."""

    class Nothing:
        scoring = None

    monkeypatch.setattr(writing, "miniature", lambda _: None)
    monkeypatch.setattr(writing, "identify_model", lambda *_: None)
    monkeypatch.setattr(writing, "probe_model", lambda *_: Nothing())


def test_a_configuration_alone_gives_a_card_that_reads_back(tmp_path):
    new = new_card(str(small(tmp_path / "Some Model") / "config.json"))
    text = new.to_yaml()
    (tmp_path / "card.yaml").write_text(text)
    assert load_model_card(str(tmp_path / "card.yaml")) == new.card
    assert new.card.name == "some-model"
    assert new.card.hub_id is None
    assert new.card.summary.startswith("some-model: ")
    assert set(new.unknown) == ALWAYS_UNKNOWN | {"hub_id", "class_name", "format", "weights"}
    lines = text.splitlines()
    for key, reason in new.unknown.items():
        begin = "  published: null" if "." in key else f"{key}: "
        assert sum(line.startswith(begin) and line.endswith(reason) for line in lines) == 1, key
    assert sum("# not known: " in line for line in lines) == len(new.unknown)
    assert new.to_dict()["card"] == json.loads(new.card.model_dump_json())


def test_the_weights_are_compared_with_the_card(tmp_path, no_probe):
    folder = tmp_path / "lab"
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    assert "weights" not in new_card(str(folder)).unknown
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    assert (
        new_card(str(folder)).unknown["weights"] == "the files hold 0.01 GiB, the card gives 0.00"
    )


@pytest.mark.parametrize(
    ("stated", "weights", "experts", "words"),
    [
        ({"torch_dtype": "float16"}, "float16", None, None),
        ({"dtype": "bfloat16"}, "bfloat16", None, None),
        ({}, "bfloat16", None, "names no precision"),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}},
         "float8", None, "in part"),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "awq"}},
         "bfloat16", None, "quantised by awq"),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"}},
         "bfloat16", "mxfp4", None),
    ],
)  # fmt: skip
def test_the_precision_of_published_weights(stated, weights, experts, words, tmp_path, no_probe):
    new = new_card(str(small(tmp_path, **stated)))
    assert (new.card.weights, new.card.expert_weights) == (weights, experts)
    assert (words or "") in new.unknown.get("weights", "")
    assert ("weights" in new.unknown) == (words is not None)


@pytest.mark.parametrize("end", MARKERS)
def test_marks_of_thinking_in_a_template(end, tmp_path, no_probe):
    """A template that opens thinking is one of a reasoning model; one that closes it is not."""
    start, folder = MARKERS[end], small(tmp_path)
    found = {}
    for name, text in {
        "opens": template(start, True),
        "knows": template(start, False),
        "closes": template(start, True, end),
    }.items():
        chat_tokenizer(text).save_pretrained(folder)
        found[name] = new_card(str(folder))
    for name in ("opens", "knows"):
        card = found[name].card
        assert (card.format, card.think_start_token, card.think_end_token) == (
            "reasoning", start, end,
        )  # fmt: skip
        assert card.answer_tokens == 64  # half of the context
    assert "format" not in found["opens"].unknown
    assert "does not open it" in found["knows"].unknown["format"]
    assert found["closes"].card.format == "chat"
    assert f"by default writes {end}" in found["closes"].unknown["format"]


@pytest.mark.parametrize(
    ("tokenizer", "kind", "words"),
    [
        (chat_tokenizer(None), "base", None),
        (chat_tokenizer(), "chat", "base models may"),
        (chat_tokenizer(special=["<think>", "</think>"]), "chat", "the tokenizer has </think>"),
        (chat_tokenizer("{{ none.thing.x }}"), "chat", "its chat template fails"),
    ],
)
def test_formats_without_marks_in_the_template(tokenizer, kind, words, tmp_path, no_probe):
    tokenizer.save_pretrained(small(tmp_path))
    new = new_card(str(tmp_path))
    assert new.card.format == kind
    assert (words or "") in new.unknown.get("format", "")
    assert ("format" in new.unknown) == (words is not None)


def test_a_damaged_tokenizer_is_named_in_the_comment(tmp_path, no_probe):
    (small(tmp_path) / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded" in new_card(str(tmp_path)).unknown["format"]


def test_the_language_model_inside_another(tmp_path, no_probe):
    whole = AutoConfig.for_model("qwen3_5_moe").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(whole))
    card = new_card(str(tmp_path)).card
    assert card.architecture == "qwen3_5_moe_text"
    assert card.notes == "The language model inside a qwen3_5_moe; other parts are left out."
    assert card.config["num_experts"] == whole["text_config"]["num_experts"]
    assert "text_config" not in card.config


def test_layers_whose_experts_no_router_chooses(tmp_path, no_probe):
    """DeepSeek-V4 has a table of tokens in its first layers; its paper counts 13 billion active."""
    AutoConfig.for_model("deepseek_v4").save_pretrained(tmp_path)
    card = new_card(str(tmp_path)).card
    assert "In layers 0, 1, 2 no router chooses" in card.notes
    assert card.dense_layers == ()
    assert round(card.parameters.total / 1e9) == 284
    assert 13 <= card.parameters.active / 1e9 < 14


def test_infinity_is_left_out_and_said(tmp_path, no_probe):
    limit = [0.0, {"__float__": "Infinity"}]
    new = new_card(str(small(tmp_path, other=limit, third={"a": float("inf")}, fourth=[1.5])))
    assert new.unknown["config"] == "a card has no infinite numbers; left out: other, third"
    assert new.card.config["fourth"] == [1.5]
    assert yaml.safe_load(new.to_yaml())["config"] == new.card.config


def test_what_a_card_cannot_describe_is_refused(tmp_path, no_probe):
    folder = small(tmp_path, num_local_experts=2, num_experts_per_tok=2)
    with pytest.raises(
        UserError, match=r"a card cannot describe it \(top_k 2 is not below 2 experts\)"
    ):
        new_card(str(folder))


def test_a_dense_model_has_no_card(tmp_path):
    AutoConfig.for_model("llama", num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(SteeringError, match="no router"):
        new_card(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("org/__x (1)", "x--1-"),
        ("/no/such/..", "model"),
    ],
)
def test_the_name_of_a_card(name, expected):
    assert card_name(name) == expected


def test_the_name_of_a_folders_card(tmp_path):
    folder = tmp_path / "models--Org--Model-X" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    assert card_name(str(folder)) == "model-x"
    plain = tmp_path / "My_Model"
    plain.mkdir()
    assert card_name(str(plain)) == card_name(str(plain / "config.json")) == "my_model"

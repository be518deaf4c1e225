from types import SimpleNamespace

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.models.prompt_format import PromptFormat, prompt_format


def tokenizer(template="{{ x }}"):
    return SimpleNamespace(
        chat_template=template,
        encode=lambda text, **_: [len(text)],
        get_added_vocab=dict,
        apply_chat_template=lambda asked, **_: f"<s>{asked[0]['content']}</s>",
    )


def test_a_base_models_card_keeps_it_out_of_the_template():
    assert not prompt_format("olmoe-1b-7b", tokenizer()).chat
    assert prompt_format("olmoe-1b-7b", tokenizer(), "chat").chat
    assert prompt_format("Qwen/Qwen3-30B-A3B-Instruct-2507", tokenizer()) == PromptFormat(chat=True)
    assert not prompt_format("phi-tiny-moe-instruct", tokenizer(), "plain").chat


def test_a_model_without_a_card_is_taken_by_its_tokenizer():
    assert prompt_format("some/folder", tokenizer()).name == "chat"
    assert prompt_format("some/folder", tokenizer(None)).name == "plain"
    with pytest.raises(UserError, match="no chat template"):
        prompt_format("some/folder", tokenizer(None), "chat")


def test_a_reasoning_models_card_tells_where_its_answer_begins():
    found = prompt_format("qwen3-30b-a3b-thinking-2507", tokenizer())
    ends = (len("</think>"),)
    assert found == PromptFormat(True, "<think>", ends, 32768, "</think>", "</s>")
    assert found.name == "chat, thinking in up to 32768 tokens"


def test_a_folder_of_a_models_name_is_that_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen3-30B-A3B-Thinking-2507", "OLMoE-1B-7B-0924", "mine"):
        (tmp_path / name).mkdir()
    found = prompt_format(str(tmp_path / "Qwen3-30B-A3B-Thinking-2507"), tokenizer())
    assert found.answer_tokens == 32768
    assert prompt_format("Qwen3-30B-A3B-Thinking-2507", tokenizer()) == found
    assert prompt_format("mine", tokenizer()) == PromptFormat(chat=True)

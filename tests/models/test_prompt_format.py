from types import SimpleNamespace

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.models.prompt_format import PromptFormat, prompt_format
from dsmoe_eval.registry import find_card


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


def test_case_06_a_card_in_the_users_folder_is_the_models(tmp_path, monkeypatch):
    built_in = find_card("models", "qwen3-30b-a3b-thinking-2507").read_text()
    mine = built_in.replace("</think>", "<done>").replace("32768", "100")
    (tmp_path / "plans" / "models").mkdir(parents=True)
    (tmp_path / "plans" / "models" / "My-Reasoner.yaml").write_text(mine)
    (tmp_path / "weights" / "My-Reasoner").mkdir(parents=True)
    folder = str(tmp_path / "weights" / "My-Reasoner")
    plan = tmp_path / "plans" / "plan.yaml"
    found = prompt_format(folder, tokenizer(), beside=plan)
    assert (found.marker, found.answer_tokens) == ("<done>", 100)
    assert prompt_format(folder, tokenizer()) == PromptFormat(chat=True)
    monkeypatch.chdir(tmp_path / "plans")  # where dsmoe-lm-eval and Inspect look
    assert prompt_format(folder, tokenizer()) == found
    assert prompt_format("me/My-Reasoner", tokenizer()) == found


def test_case_06_the_argument_comes_before_card_and_tokenizer():
    thinking = tokenizer("{{ x }}<think>")
    assert prompt_format("mine", thinking).marker == "</think>"
    assert prompt_format("mine", thinking).name == "chat, thinking up to </think>"
    assert prompt_format("mine", thinking, "plain").name == "plain"
    named = prompt_format("mine", thinking, "plain", "<done>")
    assert (named.marker, named.name) == ("<done>", "plain, thinking up to <done>")
    assert prompt_format("qwen3-30b-a3b-thinking-2507", thinking, "auto", "").name == "chat"
    with pytest.raises(UserError, match="no token 40 of 30"):
        prompt_format("mine", sized(thinking, 30), "auto", 40)


def sized(made, size):
    class Sized(SimpleNamespace):
        def __len__(self):
            return size

    return Sized(**vars(made))


@pytest.mark.parametrize(
    ("template", "added", "marker"),
    [
        ("{{ x }}", {}, ""),
        ("{{ x }}", {"</think>": 1}, "</think>"),
        ("{{ x }}[THINK]", {"</think>": 1}, "[/THINK]"),
        ("{{ x }}", {"<|channel|>": 1}, ""),
        ("{{ x }}", {"<|channel|>": 1, "<|message|>": 2}, "<|channel|>final<|message|>"),
        (None, {"</think>": 1}, ""),  # a base model; its tokenizer is that of its siblings
    ],
)
def test_case_06_a_template_comes_before_tokens(template, added, marker):
    made = tokenizer(template)
    made.get_added_vocab = lambda: added
    assert prompt_format("mine", made).marker == marker


def test_case_06_a_card_that_says_chat_does_not_think():
    made = tokenizer("{{ x }}<think>")
    assert prompt_format("qwen3-30b-a3b-instruct-2507", made) == PromptFormat(chat=True)

"""An answer begins where the thinking ends, the same in all three paths."""

import warnings

import anyio
import pytest
from inspect_ai.model import GenerateConfig, get_model
from lm_eval.api.instance import Instance

from dsmoe_eval.adapters.lm_eval_model import SteeredLM
from dsmoe_eval.engines.reading import read_answer
from dsmoe_eval.engines.requests import Answer, Request
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.errors import EvalWarning
from dsmoe_eval.models import load_model
from dsmoe_eval.models.prompt_format import PromptFormat, prompt_format

from .chatting import ASKS, TEMPLATE, TURNS, chat_model, chat_tokenizer, script

QUESTION = "Which one? (A) cat (B) dog"
ANSWER = "The answer is (B)."
THOUGHT = "Perhaps it is (A).\n\nNo, a cat it is not."
TAGS = ("<think>", "</think>")
HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
REASONERS = {
    "the template opens it": (TURNS + ASKS + "<think>\n{% endif %}", TAGS,
        f"{THOUGHT}\n</think>\n\n{ANSWER}"),
    "the model opens it": (TEMPLATE, TAGS, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"),
    "only the template has it": (TURNS + ASKS + "<think>{% endif %}", (),
        f"{THOUGHT}</think>\n\n{ANSWER}"),
    "channels": (TEMPLATE, HARMONY,
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
        f"<|channel|>final<|message|>{ANSWER}"),
    "a template without a turn": (
        "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}",
        ("[INST]", "[/INST]", "[THINK]", "[/THINK]"), f"[THINK]{THOUGHT}[/THINK]{ANSWER}"),
    "another tag": (TURNS + ASKS + "<reasoning>\n{% endif %}", (),
        f"{THOUGHT}\n</reasoning>\n{ANSWER}"),
    "several thoughts": (TEMPLATE, TAGS, f"<think>{THOUGHT}</think>So: <think>yes</think>{ANSWER}"),
    "no thought": (TEMPLATE, TAGS, f"{ANSWER}\n\nIs it (A)?"),
    "an empty thought": (TEMPLATE, TAGS, f"<think>\n\n</think>\n\n{ANSWER}\n\nIs it (A)?"),
}  # fmt: skip


def ask_lm(lm, limit=120):
    prompt = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    settings = {"until": ["\n\n"], "max_gen_toks": limit}
    asked = Instance(request_type="generate_until", doc={}, arguments=(prompt, settings), idx=0)
    return lm.generate_until([asked])[0]


def ask_inspect(name, limit=120, **arguments):
    async def one():
        model = get_model(f"dsmoe/{name}", memoize=False, **arguments)
        return await model.generate(
            QUESTION, config=GenerateConfig(max_tokens=limit, stop_seqs=["\n\n"])
        )

    return anyio.run(one)


def ask_all(name, limit=120, **named):
    """Ask as `dsmoe-eval run`, `dsmoe-lm-eval` and Inspect do."""
    loaded = load_model(name, "cpu")
    chosen = prompt_format(name, loaded.tokenizer, **named)
    return [
        ask_lm(TransformersLM(loaded, 2048, chosen), limit),
        ask_lm(SteeredLM(name, device="cpu", **named), limit),
        ask_inspect(name, limit, device="cpu", **named).completion,
    ]


@pytest.mark.parametrize("kind", REASONERS)
def test_case_06_thinking_ends_where_template_or_tokens_say(kind, tmp_path, monkeypatch):
    template, special, said = REASONERS[kind]
    tokenizer = chat_tokenizer(template, special)
    script(monkeypatch, tokenizer, {QUESTION: said})
    with warnings.catch_warnings():
        warnings.simplefilter("error", EvalWarning)
        assert ask_all(chat_model(tmp_path / "my-reasoner", tokenizer)) == [ANSWER] * 3


@pytest.mark.parametrize(
    "place",
    ["Qwen3-30B-A3B-Thinking-2507",
     "models--Qwen--Qwen3-30B-A3B-Thinking-2507/snapshots/0123456789abcdef"],
)  # fmt: skip
def test_case_06_a_card_is_known_by_the_folder_and_by_the_hubs_snapshot(
    place, tmp_path, monkeypatch
):
    tokenizer = chat_tokenizer()  # `</think>` is no token and stands nowhere in the template
    assert len(tokenizer.encode("</think>", add_special_tokens=False)) > 1
    script(monkeypatch, tokenizer, {QUESTION: f"<think>\n{THOUGHT}</think>\n\n{ANSWER}"})
    name = chat_model(tmp_path / place, tokenizer)
    assert prompt_format(name, tokenizer).answer_tokens == 32768
    assert ask_all(name) == [ANSWER] * 3


@pytest.mark.parametrize(
    ("start", "end", "special"),
    [("<reasoning>", "</reasoning>", ()),
     ("<|begin_of_thought|>", "<|end_of_thought|>", ()),
     ("[THINK]", "[/THINK]", ()),
     ("<|reason_start|>", "<|reason_end|>", ("<|reason_start|>", "<|reason_end|>"))],
)  # fmt: skip
def test_case_06_an_unknown_mark_warns_and_the_argument_is_the_way_out(
    start, end, special, tmp_path, monkeypatch
):
    tokenizer = chat_tokenizer(special=special)
    script(monkeypatch, tokenizer, {QUESTION: f"{start}{THOUGHT}{end}{ANSWER}"})
    name = chat_model(tmp_path / "my-reasoner", tokenizer)
    loaded = load_model(name, "cpu")
    known = prompt_format(name, tokenizer)
    for ask in (
        lambda: ask_lm(TransformersLM(loaded, 2048, known)),
        lambda: ask_lm(SteeredLM(loaded)),
        lambda: ask_inspect(name, device="cpu"),
    ):
        with pytest.warns(EvalWarning, match=r"looks like thinking.*think_end_token="):
            ask()
    assert ask_all(name, think_end_token=end) == [ANSWER] * 3
    if special:
        number = tokenizer.convert_tokens_to_ids(end)
        assert ask_all(name, think_end_token=number) == [ANSWER] * 3


def test_case_06_a_limit_within_the_thinking_leaves_no_answer(tmp_path, monkeypatch):
    tokenizer = chat_tokenizer(special=TAGS)
    script(monkeypatch, tokenizer, {QUESTION: f"<think>{THOUGHT}</think>{ANSWER}"})
    name = chat_model(tmp_path / "my-reasoner", tokenizer)
    assert ask_all(name, limit=9) == [""] * 3
    assert ask_inspect(name, 9, device="cpu").stop_reason == "max_tokens"
    script(monkeypatch, tokenizer, {QUESTION: ANSWER + " So it is, and that is all there is."})
    for answer in ask_all(name, limit=30):  # it does not think, so what it said is the answer
        assert answer.startswith(ANSWER[:4])


def test_case_06_a_plain_prompt_is_read_as_a_plain_prompt(tmp_path, monkeypatch):
    tokenizer = chat_tokenizer(special=TAGS)
    script(monkeypatch, tokenizer, {QUESTION: f" {ANSWER}\n\nIs it (A)?"})
    lm = SteeredLM(chat_model(tmp_path / "my-reasoner", tokenizer), device="cpu")
    (completion,) = lm.complete([(QUESTION, {"until": ["\n\n"], "max_gen_toks": 120})])
    assert completion.text == f" {ANSWER}"
    assert completion.tokens < len(tokenizer.encode(f" {ANSWER}\n\nIs it"))


@pytest.mark.parametrize("marker", ["</think>", ".</think>", "k</think>\n\nT"])
def test_case_06_a_marker_in_other_tokens_is_read_from_the_text(marker):
    tokenizer = chat_tokenizer()
    chosen = prompt_format("mine", tokenizer, "plain", TAGS[1])
    before, after = marker.split("</think>")
    text = f"{THOUGHT}{before}</think>{after}"
    tokens = tuple(tokenizer.encode(text + "he answer", add_special_tokens=False))
    request = Request((0,), 99, after=chosen.think_end)
    read = read_answer(tokenizer, chosen, request, Answer(tokens, "stop"), "mine")
    assert read.text == (after + "he answer").lstrip()
    assert tokenizer.decode(read.thought).startswith(THOUGHT)
    assert read.thought == tokens[: len(read.thought)]
    assert read.said == tokens[-len(read.said) :]


def test_case_06_ordinary_words_do_not_warn():
    tokenizer = chat_tokenizer()
    said = "I think [that] for some reason a < b > c; <b>thinking</b> [1]. Reasoning: high"
    tokens = tuple(tokenizer.encode(said, add_special_tokens=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_answer(
            tokenizer, PromptFormat(), Request((0,), 99), Answer(tokens, "stop"), "mine"
        )
    assert (read.text, read.thought) == (said, None)

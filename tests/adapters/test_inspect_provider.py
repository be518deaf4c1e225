"""Inspect's provider against our own engine, through Inspect's own `get_model`."""

from types import SimpleNamespace

import anyio
import pytest
import torch
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.tool import ToolInfo
from lm_eval.api.instance import Instance

from dsmoe_eval.adapters.inspect_provider import DsmoeAPI, _format
from dsmoe_eval.engines.reading import read_answer
from dsmoe_eval.engines.requests import Answer, Request, split_reasoning
from dsmoe_eval.engines.transformers.generate import generate
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.errors import EvalWarning, UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.models.prompt_format import PromptFormat, prompt_format
from dsmoe_eval.steering import Intervention, steer

from ..engines import spelled

PROMPTS = tuple(f"What is {a} + {b}?" for a, b in ((7, 6), (12, 30), (5, 5), (40, 9)))


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def profile(loaded):
    return trial_profile(loaded.identity, Intervention(kind="bias", strength=10.0), range(4))


@pytest.fixture(scope="module")
def path(profile, tmp_path_factory):
    file = tmp_path_factory.mktemp("profile") / "p.json"
    file.write_text(profile.to_json())
    return str(file)


def ask(model, prompts=PROMPTS, **config):
    """All at once, as samples come."""
    outputs = [None] * len(prompts)

    async def one(place, prompt):
        outputs[place] = await model.generate(prompt, config=GenerateConfig(**config))

    async def everyone():
        async with anyio.create_task_group() as group:
            for place, prompt in enumerate(prompts):
                group.start_soon(one, place, prompt)

    anyio.run(everyone)
    return outputs


def ours(loaded, limit):
    lm = TransformersLM(loaded, 2048)
    settings = {"max_gen_toks": limit}
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(p, settings), idx=0)
        for p in PROMPTS
    ]
    return lm.generate_until(asked)


def test_texts_are_our_engines_base_and_steered(loaded, profile, path):
    base, steered = get_model("dsmoe/lab-poly"), get_model("dsmoe/lab-poly", profile=path)
    got = ask(base, max_tokens=5)
    assert [output.completion for output in got] == ours(loaded, 5)
    changed = ask(steered, max_tokens=5)
    with steer(loaded.model, profile):
        assert [output.completion for output in changed] == ours(loaded, 5)
    assert [o.completion for o in got] != [o.completion for o in changed]
    assert got[0].metadata["profile"] is None
    assert changed[0].metadata["profile"] == profile.id
    assert (str(base), str(steered)) == ("dsmoe/lab-poly", f"dsmoe/lab-poly@{profile.id}")


def test_why_it_stopped_and_what_it_used(loaded):
    model = get_model("dsmoe/lab-poly")
    (short, *_) = ask(model, max_tokens=1)
    assert short.stop_reason == "max_tokens"
    length = len(loaded.tokenizer.encode(PROMPTS[0]))
    assert (short.usage.input_tokens, short.usage.output_tokens) == (length, 1)
    whole = ask(model, max_tokens=8)[0]
    assert whole.stop_reason == "stop"
    stop = whole.completion[-1]
    cut = ask(model, stop_seqs=[stop])[0]
    assert (cut.completion, cut.stop_reason) == (whole.completion.partition(stop)[0], "stop")
    (long,) = ask(model, ["What is 7 + 6? " * 10], max_tokens=500, stop_seqs=["no such"])
    assert long.stop_reason in {"stop", "model_length"}
    with pytest.raises(ExceptionGroup) as error:
        ask(model, ["What is 7 + 6? " * 40])
    assert "leaves no room in 128 positions" in str(error.value.exceptions[0])


def test_the_limit_of_the_model_is_told(monkeypatch):
    model = get_model("dsmoe/lab-poly", memoize=False)
    monkeypatch.setattr(
        "dsmoe_eval.engines.transformers.generate.end_tokens", lambda _: frozenset()
    )
    (output,) = ask(model, PROMPTS[:1])
    assert output.stop_reason == "model_length"
    assert output.usage.total_tokens == 128


def test_requests_of_a_moment_are_one_batch(monkeypatch):
    model = get_model("dsmoe/lab-poly", memoize=False)
    sizes, run = [], model.api._batcher._run
    monkeypatch.setattr(
        model.api._batcher, "_run", lambda asked: sizes.append(len(asked)) or run(asked)
    )
    ask(model, max_tokens=2, max_connections=3)
    assert sizes == [3, 1]


def test_logprobs_are_those_of_the_tokens_generated(loaded):
    model = get_model("dsmoe/lab-poly")
    plain = ask(model, max_tokens=6)
    stop = plain[0].completion[-1]
    for config in ({}, {"stop_seqs": [stop]}, {"temperature": 2.0, "seed": 4}):
        for prompt, output in zip(
            PROMPTS, ask(model, max_tokens=6, logprobs=True, top_logprobs=2, **config), strict=True
        ):
            told = output.choices[0].logprobs.content
            assert "".join(one.token for one in told).startswith(output.completion)
            ids = loaded.tokenizer.encode(prompt)
            for one in told:
                with torch.no_grad():
                    row = loaded.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                token = next(
                    t for t in range(len(row)) if loaded.tokenizer.decode([t]) == one.token.strip()
                )
                assert one.logprob == pytest.approx(float(row[token]), abs=1e-3)
                assert one.top_logprobs[0].logprob == pytest.approx(float(row.max()), abs=1e-3)
                ids = [*ids, token]
    assert plain[0].choices[0].logprobs is None


def drawn(path=None, **config):
    """Each epoch's answers to the same questions, through Inspect's own `eval`."""
    task = Task(dataset=[Sample(id=p, input=p, target="1") for p in PROMPTS[:2]], scorer=includes())
    (log,) = eval(
        task, model="dsmoe/lab-poly", epochs=3, temperature=3.0, max_tokens=8, display="none",
        log_dir=str(path), **config,
    )  # fmt: skip
    return {(s.id, s.epoch): s.output.completion for s in log.samples}


def test_epochs_draw_anew_and_a_run_again_draws_the_same(tmp_path):
    one = drawn(tmp_path)
    assert drawn(tmp_path) == one
    assert drawn(tmp_path, max_connections=1) == one
    assert drawn(tmp_path, seed=5) != one
    assert len(set(one.values())) > 3


def test_inspects_cache_knows_the_profile(path, tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path))
    models = [get_model("dsmoe/lab-poly"), get_model("dsmoe/lab-poly", profile=path)]
    first = [ask(model, max_tokens=5, cache=True) for model in models]
    monkeypatch.setattr(DsmoeAPI, "generate", None)  # whoever asks the model fails
    again = [ask(model, max_tokens=5, cache=True) for model in models]
    texts = [[[o.completion for o in outputs] for outputs in runs] for runs in (first, again)]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_tokens_are_the_models(loaded):
    model = get_model("dsmoe/lab-poly")
    ids = loaded.tokenizer.encode(PROMPTS[0], add_special_tokens=False)
    assert anyio.run(model.api.tokenize, PROMPTS[0]) == ids
    assert anyio.run(model.api.count_text_tokens, PROMPTS[0]) == len(ids)


def api(**attributes):
    """The provider without a model, for what needs none."""
    made = object.__new__(DsmoeAPI)
    made._format = PromptFormat()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Words:
    """A token for each word; a template that shows roles."""

    def __init__(self):
        self.words = []

    def encode(self, text, add_special_tokens=True):
        for word in text.split(" "):
            if word not in self.words:
                self.words.append(word)
        ids = [self.words.index(word) for word in text.split(" ")]
        return [-1, *ids] if add_special_tokens else ids

    def decode(self, tokens, **_):
        return " ".join(self.words[token] for token in tokens if token >= 0)

    def apply_chat_template(self, told, *, tokenize, add_generation_prompt, continue_final_message):
        assert not tokenize
        assert add_generation_prompt != continue_final_message
        text = " ".join(f"<{m['role']}> {m['content']}" for m in told)
        return f"{text} <assistant>" if add_generation_prompt else text


def with_words(templated):
    steered = SimpleNamespace(loaded=SimpleNamespace(tokenizer=Words()))
    return api(_steered=steered, _format=PromptFormat(templated))


CHAT = [
    ChatMessageSystem(content="be brief"),
    ChatMessageUser(content=[ContentText(text="why now")]),
]


def test_a_conversation_stands_in_the_template_or_is_joined():
    plain, chat = with_words(False), with_words(True)
    assert chat._prompt(CHAT) == "<system> be brief <user> why now <assistant>"
    assert plain._prompt(CHAT) == "be brief\n\nwhy now"
    assert plain._prompt(CHAT[1:]) == "why now"
    begun = [
        *CHAT,
        ChatMessageAssistant(content=[ContentReasoning(reasoning="hm"), ContentText(text="so")]),
    ]
    assert chat._prompt(begun).endswith("why now <assistant> so")


def test_a_template_that_is_not_there_cannot_be_asked_for():
    bare = SimpleNamespace(chat_template=None)
    assert not _format("a/b", bare, None).chat
    assert not _format("a/b", SimpleNamespace(chat_template="{{ x }}"), False).chat
    with pytest.raises(PrerequisiteError, match="no chat template"):
        _format("a/b", bare, True)


def test_thinking_is_told_apart_from_the_answer():
    words = with_words(False)
    words._tokenizer.chat_template = None
    words._format = prompt_format("qwen3-30b-a3b-thinking-2507", words._tokenizer)
    tokens = words._tokenizer.encode(
        "<think> let me see </think> it is 4 . it", add_special_tokens=False
    )
    request = Request((0,), 50, stops=(".",), after=words._format.think_end)

    def content(tokens, reason):
        answer = Answer(tuple(tokens), reason)
        return words._content(
            read_answer(words._tokenizer, words._format, request, answer, "words")
        )

    reasoning, text = content(tokens, "stop")
    assert (reasoning.reasoning, text.text) == ("let me see", "it is 4 ")
    assert content(tokens[:3], "max_tokens")[1].text == ""
    with pytest.warns(EvalWarning, match="'<think>', which looks like thinking"):
        assert content(tokens[:3], "stop") == "<think> let me"
    assert split_reasoning(Answer((1, 9, 2, 9, 3), "stop"), (9,)) == ((1, 9, 2), (3,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profil": "p"}, "no such model argument: profil"),
        ({"base_url": "http://x"}, "base_url"),
        ({"profile": "gone.json"}, "gone.json: the profile cannot be read"),
        ({"chat_template": True}, "no chat template"),
        ({"device": "cuda:77"}, "device 'cuda:77'"),
    ],
)
def test_wrong_arguments_are_told_before_anything_runs(arguments, message):
    with pytest.raises(PrerequisiteError, match=message):
        get_model("dsmoe/lab-poly", memoize=False, **arguments)


def test_a_profile_of_another_model_is_an_error(profile, tmp_path):
    other = profile.model.model_copy(update={"routers": "0" * 64})
    (tmp_path / "p.json").write_text(profile.model_copy(update={"model": other}).to_json())
    with pytest.raises(PrerequisiteError, match="other weights"):
        get_model("dsmoe/lab-poly", profile=str(tmp_path / "p.json"))


def test_a_name_from_a_log_holds_its_profile(profile, path):
    name = f"dsmoe/lab-poly@{profile.id}"
    assert str(get_model(name, profile=path)) == name
    with pytest.raises(PrerequisiteError, match="was steered by profile 0000000000000000"):
        get_model("dsmoe/lab-poly@0000000000000000", profile=path)
    with pytest.raises(PrerequisiteError, match="-M profile is not given"):
        get_model(name)


@pytest.mark.parametrize(
    "config", [{"frequency_penalty": 0.5}, {"num_choices": 2}, {"logit_bias": {1: 2.0}}]
)
def test_what_would_change_the_answer_and_is_not_served_is_refused(config):
    with pytest.raises(ExceptionGroup) as error:
        ask(get_model("dsmoe/lab-poly"), PROMPTS[:1], **config)
    (reason,) = error.value.exceptions
    assert isinstance(reason, UserError)
    assert next(iter(config)) in str(reason)


def test_tools_are_refused():
    tool = ToolInfo(name="t", description="d")

    async def one():
        await get_model("dsmoe/lab-poly").generate("x", tools=[tool])

    with pytest.raises(UserError, match="tools"):
        anyio.run(one)


def test_case_03_a_special_token_stops_an_answer_and_is_no_part_of_it():
    tokenizer = spelled.tokenizer("letters")
    order = tokenizer.encode("question <|end|>\nw")
    loaded = spelled.saying(tokenizer, list(dict.fromkeys(order)))
    made = api(_steered=SimpleNamespace(loaded=loaded))
    for stop, text in (("<|end|>", "estion "), ("|end", "estion "), ("n <|end|>", "estion ")):
        request = Request(tuple(tokenizer.encode("qu")), 30, stops=(stop,), top_logprobs=0)
        (answer,) = generate(loaded, [request])
        read = read_answer(tokenizer, made._format, request, answer, "letters")
        assert (made._content(read), answer.reason) == (text, "stop")
        told = "".join(one.token for one in made._logprobs(answer, request, read).content)
        assert told == text

"""What the LMs share, on an engine that only notes what it is asked."""

from types import SimpleNamespace

import pytest
from lm_eval.api.instance import Instance

from dsmoe_eval.cards import MAX_NEW_TOKENS
from dsmoe_eval.engines.lm import EngineLM
from dsmoe_eval.engines.requests import Answer
from dsmoe_eval.errors import UserError
from dsmoe_eval.models.prompt_format import PLAIN, PromptFormat
from dsmoe_eval.tasks.language_model import Completion, unwatched


class Letters:
    """A token for each lower-case letter, none for anything else."""

    bos_token_id = bos_token = eos_token = None
    eos_token_id = 26

    chat_template = None

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [self.encode(t, add_special_tokens=add_special_tokens) for t in texts]}

    def encode(self, text, **_):
        return [ord(letter) - ord("a") for letter in text if letter.islower()]

    def decode(self, tokens, **_):
        return "".join(chr(ord("a") + token) if token < 26 else "." for token in tokens)


class Noting(EngineLM):
    """Scores by what it was asked, continues a prompt by itself, twice."""

    def __init__(self, *settings):
        identity = SimpleNamespace(fingerprint="f" * 64, name="noting")
        super().__init__(Letters(), identity, *settings)
        self.asked = []

    def _score(self, arranged, advance=unwatched):
        pairs = arranged.pairs
        self.asked.append(pairs)
        advance(len(pairs))
        return [(-float(len(context)), len(continuation) == 1) for context, continuation in pairs]

    def _answer(self, requests):
        for place, request in enumerate(requests):
            self.asked.append(request)
            tokens = (*request.prompt, 26, *request.prompt)
            reason = "stop" if len(tokens) <= request.limit else "max_tokens"
            yield [(place, Answer(tokens[: request.limit], reason))]


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]


def test_pairs_are_scored_in_one_call_and_in_order():
    lm = Noting()
    got = lm.loglikelihood(requests("loglikelihood", ("ab", "c"), ("abc", "de"), ("", "b")))
    assert got == [(-2.0, True), (-3.0, False), (-1.0, True)]
    assert lm.asked == [[([0, 1], [2]), ([0, 1, 2], [3, 4]), ([26], [1])]]
    assert lm.tokenizer_name == "f" * 64


def test_texts_asked_again_are_neither_encoded_nor_arranged_again(monkeypatch):
    lm, texts, told = Noting(), [("ab", "c"), ("abc", "de")], []
    first = lm.log_likelihoods(texts, told.append)
    monkeypatch.setattr(lm, "tok_encode", None)
    assert lm.log_likelihoods(list(texts), told.append) == first
    assert lm.asked[0] is lm.asked[1]
    assert told == [2, 2]


def test_a_text_does_not_get_its_first_token_twice(monkeypatch):
    seen = []
    monkeypatch.setattr(Letters, "bos_token", "<s>")
    monkeypatch.setattr(Letters, "bos_token_id", 25)
    monkeypatch.setattr(Letters, "encode", lambda _, text, **rest: seen.append((text, rest)) or [1])
    lm = Noting()
    seen.clear()
    for text, given in (("<s>ab", None), ("ab", None), ("<s>ab", True), ("ab", False)):
        lm.tok_encode(text, given)
    wanted = [False, True, True, False]
    assert [rest["add_special_tokens"] for _, rest in seen] == wanted
    assert lm.prefix_token_id == 25


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(UserError, match="no token for the answer '!'"):
        Noting().loglikelihood(requests("loglikelihood", ("ab", "c"), ("ab", "!")))


def test_texts_are_cut_before_their_stop_and_tell_what_they_took():
    lm = Noting()
    prompts = [
        ("abc", {"until": ["."], "max_gen_toks": 9}),
        ("abc", {"until": "", "max_new_tokens": 5}),
        ("xyz", {"until": ["zz", "y"], "temperature": 0.0}),
    ]
    told = []
    assert lm.complete(prompts, advance=told.append) == [
        Completion("abc", 7, False), Completion("abc.a", 5, True), Completion("x", 7, False),
    ]  # fmt: skip
    assert sum(told) == 3
    assert [request.limit for request in lm.asked] == [9, 5, MAX_NEW_TOKENS]
    assert [request.sampling for request in lm.asked] == [None] * 3
    assert lm.generate_until(requests("generate_until", *prompts)) == ["abc", "abc.a", "x"]


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": True}, 1.0),
        ({"do_sample": False, "temperature": 0.7}, None),
        ({"do_sample": True, "temperature": 0}, None),
    ],
)
def test_sampling_as_transformers_reads_it(settings, temperature):
    lm = Noting()
    lm.generate_until(requests("generate_until", ("ab", settings)))
    drawn = lm.asked[0].sampling
    assert (None if drawn is None else drawn.temperature) == temperature


def test_each_repeat_draws_anew_and_every_call_the_same():
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    seeds = []
    for seed in (0, 0, 1):
        lm = Noting(PLAIN, seed)
        lm.generate_until(requests("generate_until", *[(p, settings) for p in ("ab", "b", "ab")]))
        assert {request.sampling.top_p for request in lm.asked} == {0.9}
        seeds.append([request.sampling.seed for request in lm.asked])
    assert len(set(seeds[0] + seeds[2])) == 6
    assert seeds[0] == seeds[1]


def test_an_answer_is_what_follows_the_thinking():
    lm = Noting(PromptFormat(think_end=(26,), answer_tokens=50))
    asked = [("abc", {"until": ["c"], "max_gen_toks": 2})]
    assert [one.text for one in lm.complete(asked)] == ["ab"]
    assert (lm.asked[0].limit, lm.asked[0].after) == (50, (26,))
    lm.max_length = 5
    (answer,) = lm.complete(asked)
    assert lm.asked[1].limit == 2  # what there are positions for
    assert answer.text == ""
    assert answer.truncated


def test_answers_are_remembered_and_a_torn_line_is_asked_again(tmp_path):
    path = tmp_path / "some" / "answers.jsonl"
    asked = [(p, {"max_gen_toks": 9}) for p in ("ab", "b", "ab")]
    first, again, other = Noting(), Noting(), Noting()
    answers = first.complete(asked, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert again.complete(asked, path) == answers
    assert again.complete(asked, path) == answers
    assert (len(first.asked), len(again.asked)) == (3, 0)  # "ab" was there twice
    other.complete([("ab", {"max_gen_toks": 8})], path)
    assert len(other.asked) == 1


def test_a_conversation_needs_a_template():
    with pytest.raises(UserError, match="'noting' has no chat template"):
        Noting().apply_chat_template([{"role": "user", "content": "ab"}])


def test_rolling_windows_predict_each_token_once_from_the_one_before():
    lm = Noting()
    lm.max_length = 4
    values = lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("abcdefghij",), ("k",)))
    assert lm.asked == [
        [
            ([26], [0, 1, 2, 3]),
            ([3], [4, 5, 6, 7]),
            ([5, 6, 7], [8, 9]),
            ([26], [10]),
        ]
    ]
    assert values == [-5.0, -1.0]


def test_rolling_is_refused_where_the_length_is_not_known():
    with pytest.raises(UserError, match="not served"):
        Noting().loglikelihood_rolling([])


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"max_gen_toks": 0}, {"no_such": 1}])
def test_case_05_what_is_not_met_is_refused_with_the_tasks_name(settings):
    (name,) = settings
    lm, asked = Noting(), requests("generate_until", ("ab", settings))
    asked[0].task_name = "sums"
    with pytest.raises(UserError, match=f"task 'sums': the generation setting {name}"):
        lm.generate_until(asked)
    with pytest.raises(UserError, match=f"the generation setting {name}"):
        lm.check_context_length(asked)
    assert not lm.asked

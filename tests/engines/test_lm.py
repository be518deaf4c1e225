"""What the LMs share, on an engine that only notes what it is asked."""

from types import SimpleNamespace

import pytest
from lm_eval.api.instance import Instance

from dsmoe_eval.engines import lm as lm_module
from dsmoe_eval.engines.lm import EngineLM
from dsmoe_eval.errors import UserError


class Letters:
    """A token for each lower-case letter, none for anything else."""

    bos_token_id = bos_token = eos_token = None
    eos_token_id = 26

    def encode(self, text, **_):
        return [ord(letter) - ord("a") for letter in text if letter.islower()]


class Noting(EngineLM):
    """Scores by what it was asked, continues a prompt by itself, twice."""

    def __init__(self):
        super().__init__(Letters(), SimpleNamespace(fingerprint="f" * 64))
        self.asked = []

    def _score(self, pairs):
        self.asked.append(pairs)
        return [(-float(len(context)), len(continuation) == 1) for context, continuation in pairs]

    def _continue(self, prompts, limit):
        self.asked.append((len(prompts), limit))
        texts = ["".join(chr(ord("a") + token) for token in prompt) for prompt in prompts]
        return [f"{text}.{text}"[:limit] for text in texts]


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]


def test_pairs_are_scored_in_one_call_and_in_order():
    lm = Noting()
    got = lm.loglikelihood(requests("loglikelihood", ("ab", "c"), ("abc", "de"), ("", "b")))
    assert got == [(-2.0, True), (-3.0, False), (-1.0, True)]
    assert lm.asked == [[([0, 1], [2]), ([0, 1, 2], [3, 4]), ([26], [1])]]
    assert lm.tokenizer_name == "f" * 64


def test_a_text_does_not_get_its_first_token_twice(monkeypatch):
    seen = []
    monkeypatch.setattr(Letters, "bos_token", "<s>")
    monkeypatch.setattr(Letters, "bos_token_id", 25)
    monkeypatch.setattr(Letters, "encode", lambda _, text, **rest: seen.append((text, rest)) or [1])
    lm = Noting()
    for text, given in (("<s>ab", None), ("ab", None), ("<s>ab", True), ("ab", False)):
        lm.tok_encode(text, given)
    wanted = [False, True, True, False]
    assert [rest["add_special_tokens"] for _, rest in seen] == wanted
    assert lm.prefix_token_id == 25


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(UserError, match="no token for the answer '!'"):
        Noting().loglikelihood(requests("loglikelihood", ("ab", "c"), ("ab", "!")))


def test_texts_of_one_setting_are_continued_together_and_cut_before_their_stop():
    lm = Noting()
    texts = lm.generate_until(
        requests(
            "generate_until",
            ("abc", {"until": ["."], "max_gen_toks": 9}),
            ("abc", {"until": "", "max_new_tokens": 5}),
            ("xy", {"until": ["."], "max_gen_toks": 9}),
            ("xyz", {"until": ["zz", "y"], "temperature": 0.0}),
        )
    )
    assert texts == ["abc", "abc.a", "xy", "x"]
    assert lm.asked == [(2, 9), (1, 5), (1, lm_module.MAX_NEW_TOKENS)]


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"do_sample": True}])
def test_sampling_is_refused(settings):
    with pytest.raises(UserError, match="sampling"):
        Noting().generate_until(requests("generate_until", ("ab", settings)))


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

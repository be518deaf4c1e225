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


def test_rolling_is_refused():
    with pytest.raises(UserError, match="not served"):
        Noting().loglikelihood_rolling([])

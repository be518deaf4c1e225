"""Samples from which an outcome does not follow are refused."""

import math

import pytest

from dsmoe_eval.comparison.readers.likelihoods import sample_bits, sample_gold_logprob
from dsmoe_eval.errors import UserError

SAMPLE = {"target": 1, "filtered_resps": [["-2.0", "False"], ["-1.0", "True"]], "acc": 1.0}


def gold(prompt="q", options=("yes", "no"), **changes):
    return sample_gold_logprob(SAMPLE | changes, prompt, options, "gold_logprob", "f, line 1")


@pytest.mark.parametrize("target", [1, "1", "no", " no", [1], "[1]"])
def test_the_right_option_is_named_by_number_or_text(target):
    wanted = -math.log(1 + math.exp(-1))
    assert gold(target=target) == pytest.approx(wanted, abs=1e-12)


def test_several_right_options_are_one_answer():
    assert gold(target=[0, 1], acc=1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"target": "maybe"}, "names none of the 2 options"), ({"target": 2}, "names none"),
     ({"target": "[x"}, "names none"), ({"options": ("no", "no"), "target": "no"}, "names none"),
     ({"prompt": ["q", "r"]}, "no log-likelihood of each option"),
     ({"options": ("yes", "no", "so")}, "no log-likelihood of each option"),
     ({"filtered_resps": ["text"]}, "no log-likelihood of each option"),
     ({"acc": 0.0}, "does not follow from its log-likelihoods")],
)  # fmt: skip
def test_what_does_not_follow_is_refused(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        gold(**changes)
    assert "f, line 1" in str(caught.value)


def test_bits_are_of_whole_texts():
    assert sample_bits({"bits_per_byte": [-math.log(2) * 8, 4]}, "f") == pytest.approx((8, 4))
    with pytest.raises(UserError, match="choose a task of whole texts"):
        sample_bits({"bits_per_byte": 1.2}, "f")
    with pytest.raises(UserError, match="a text of 0 bytes"):
        sample_bits({"bits_per_byte": [-1.0, 0]}, "f")

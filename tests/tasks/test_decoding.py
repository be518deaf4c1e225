"""Generation settings: each acts, or is refused by name."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.tasks.decoding import LIMITS, read_decoding


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"max_length": 99}, "max_length"),
        ({"stop_strings": ["a"]}, "stop_strings"),
        ({"no_such": None, "typical_p": 0.9}, "typical_p"),
        *(({name: 0}, "max_gen_toks") for name in LIMITS),
        ({"max_gen_toks": -1}, "max_gen_toks"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": "two"}, "no_repeat_ngram_size"),
        ({"until": 3}, "until"),
    ],
)
def test_case_05_what_has_no_meaning_here_is_refused_by_name(settings, name):
    with pytest.raises(UserError, match=f"the generation setting {name}"):
        read_decoding(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "greedy"),
        ({"num_beams": 1, "top_k": 50, "top_p": 0.9, "temperature": None}, "greedy"),
        ({"temperature": 0.7, "top_p": 0}, "greedy"),
        ({"temperature": 0.7, "top_k": 0, "min_p": 0}, "2 samples at temperature 0.7"),
        ({"do_sample": True, "top_k": -1}, "2 samples at temperature 1"),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "min_p": 0.1},
            "2 samples at temperature 0.6, top-k 20, min-p 0.1",
        ),
        ({"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}, "greedy"),
        (
            {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2},
            "greedy, repetition_penalty 1.1, no_repeat_ngram_size 2",
        ),
    ],
)
def test_case_05_settings_in_words_name_all_that_acts(settings, words):
    assert read_decoding(settings).describe(2) == words


def test_case_05_every_name_of_the_limit_counts_in_lm_evals_order():
    assert read_decoding({}).max_gen_toks == 256
    for place, name in enumerate(LIMITS):
        settings = dict.fromkeys(LIMITS[place:], 9) | {name: 7}
        assert read_decoding(settings).max_gen_toks == 7


def test_case_04_defaults_act_where_a_task_sets_nothing():
    defaults = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
    assert read_decoding({"until": "a"}, defaults).describe() == (
        "1 samples at temperature 0.6, top-k 20, repetition_penalty 1.1"
    )
    assert read_decoding({"do_sample": False}, defaults).describe() == (
        "greedy, repetition_penalty 1.1"
    )
    assert read_decoding({"repetition_penalty": 1.0, "temperature": 0}, defaults).describe() == (
        "greedy"
    )

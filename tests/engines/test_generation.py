"""What a checkpoint's generation_config.json says, as transformers reads the file."""

from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from dsmoe_eval.engines.generation import model_generation
from dsmoe_eval.errors import UserError

TOKENIZER = SimpleNamespace(eos_token_id=7)


def said(**settings):
    return model_generation(GenerationConfig(**settings).to_diff_dict(), TOKENIZER)


@pytest.mark.parametrize(
    ("settings", "decoding"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.0, "num_beams": 1, "top_p": 1.0, "do_sample": False}, {}),
        ({"max_new_tokens": 9, "max_length": 99, "use_cache": False, "pad_token_id": 3}, {}),
        ({"temperature": 0.6, "top_k": 20}, {}),  # transformers does not sample without do_sample
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 50},
            {"do_sample": True, "temperature": 0.6, "top_k": 50},
        ),
        (
            {"repetition_penalty": 1.1, "min_length": 1},
            {"repetition_penalty": 1.1, "min_length": 1},
        ),
        ({"forced_bos_token_id": 0, "num_beams": 4}, {"forced_bos_token_id": 0, "num_beams": 4}),
        ({"suppress_tokens": [], "bad_words_ids": [[1, 2]]}, {"bad_words_ids": [[1, 2]]}),
    ],
)
def test_case_04_what_acts_is_named_and_what_is_off_is_not(settings, decoding):
    assert said(**settings).decoding == decoding


def test_case_04_the_ends_are_the_files_and_the_tokenizers():
    assert said().ends == (7,)
    assert said(eos_token_id=3).ends == (3, 7)
    assert said(eos_token_id=[9, 7, 3]).ends == (3, 7, 9)


def test_case_04_what_is_not_implemented_is_ignored_or_refused():
    found = said(num_beams=4, repetition_penalty=1.2)
    assert found.used("task") == {}
    assert said(repetition_penalty=1.2).used("model") == {"repetition_penalty": 1.2}
    with pytest.raises(UserError, match=r"generation_config.json: .*num_beams.*decoding: task"):
        found.used("model")

"""Greedy answers, batched, against transformers' own generate on each prompt alone."""

import torch

from dsmoe_eval.engines.transformers import answers
from dsmoe_eval.engines.transformers.answers import greedy_answers
from dsmoe_eval.models import load_model

QUESTIONS = ("In biology, what is the maker of the cell?", "What is 1 + 2?", "In law,")


def test_answers_are_those_of_each_prompt_alone(monkeypatch):
    loaded = load_model("lab-poly", "cpu")
    prompts = loaded.tokenizer(list(QUESTIONS))["input_ids"]
    end = loaded.tokenizer.eos_token_id
    expected = []
    for prompt in prompts:
        output = loaded.model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=6, pad_token_id=0
        )
        expected.append(tuple(output[0, len(prompt) :].tolist()))
    found = greedy_answers(loaded, prompts, 6, 999)
    assert found == expected
    assert found[1][-1] == end
    assert len(found[1]) < 6
    assert greedy_answers(loaded, prompts, 6, 1) == expected
    monkeypatch.setattr(answers, "ROWS", {"cpu": 1})
    assert greedy_answers(loaded, prompts, 6, 999) == expected
    assert greedy_answers(loaded, prompts, 2, 999) == [answer[:2] for answer in expected]

"""Greedy answers, batched, against transformers' own generate on each prompt alone."""

import os

import torch

from dsmoe_eval.engines.requests import Answer, Request
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


def sizes_of(batches, lengths, batch_tokens, limit=8, header=0, most=None):
    """Sizes of the batches; more than `most` rows at once find no memory."""
    asked = [
        answers.Asked(n, Request((1,) * length, limit), header) for n, length in enumerate(lengths)
    ]
    seen = []

    def work(batch):
        if most is not None and len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return [Answer((1,), "stop")] * len(batch)

    for part, _ in batches.run(asked, batch_tokens, work):
        seen += [one.place for one in part]
        yield len(part)
    assert seen == list(range(len(lengths)))


def test_batches_are_as_large_as_rows_and_memory_allow(monkeypatch):
    loaded = load_model("lab-poly", "cpu")
    batches = answers.AnswerBatches(loaded.model)
    long, short = [92] * 10, [12] * 10
    assert batches.splits
    assert list(sizes_of(batches, short * 8, 1)) == [64, 16]
    each = answers.bytes_per_token(loaded.model)
    monkeypatch.setattr(answers, "memory_for_answers", lambda _: 500 * each)
    batches = answers.AnswerBatches(loaded.model)
    assert list(sizes_of(batches, long + short, 1)) == [5, 5, 10]
    assert list(sizes_of(batches, [600], 1)) == [1]
    assert list(sizes_of(batches, short, 30, header=2)) == [3, 3, 3, 1]  # ten tokens each
    assert list(sizes_of(batches, short, 999, most=4)) == [2, 2, 2, 2, 2]
    assert batches.rows == 2
    batches.splits = False
    assert list(sizes_of(batches, short, 12)) == [1] * 10


def test_bytes_of_a_token_are_those_of_the_configuration():
    model = load_model("lab-poly", "cpu").model
    config = model.config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert answers.bytes_per_token(model) == 4 * numbers
    weights = sum(one.numel() for one in model.parameters()) * 4
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert answers.memory_for_answers(model) == (whole - weights) // 8

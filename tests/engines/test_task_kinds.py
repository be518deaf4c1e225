"""Every kind of lm-eval task, answered by the engine and by lm-eval's own `hf` model."""

import random
from contextlib import nullcontext

import datasets
import numpy as np
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.models import load_model
from dsmoe_eval.models.loading import LoadedModel, identify_model
from dsmoe_eval.steering import steer
from dsmoe_eval.tasks.loading import quiet_lm_eval

from ..conftest import VOCABULARY, make_model, profile_of

DOCUMENTS, SHOTS = 6, 3
LETTERS = "ABCD"


def lab():
    loaded = load_model("lab-poly", "cpu")
    words = [word.lstrip("▁") for word in loaded.tokenizer.get_vocab() if word.startswith("▁")]
    return loaded, sorted(filter(None, words))


def random_model(kind):
    """A random model whose words are a token each."""
    model = make_model(kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and any(part in name for part in ("proj", "w1", "w2", "w3")):
                weight *= 6
    names = ["<pad>", "<end>", "<unk>", ":", ".", *LETTERS]
    words = [f"w{n}" for n in range(VOCABULARY - len(names))]
    numbered = {word: number for number, word in enumerate(names + words)}
    backend = Tokenizer(models.WordLevel(numbered, names[2]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    special = dict(zip(("pad_token", "eos_token", "unk_token"), names, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    return LoadedModel(model, tokenizer, identify_model(kind, "0", model)), words


def draw_documents(words):
    chance = random.Random(0)
    phrase = lambda low, high: " ".join(chance.choices(words, k=chance.randint(low, high)))  # noqa: E731

    def document():
        return {
            "question": phrase(4, 9),
            "options": [phrase(2, 4) for _ in LETTERS],
            "uneven": [phrase(1, 1), phrase(2, 3), phrase(8, 9), phrase(15, 16)],
            "names": [phrase(1, 1), phrase(1, 1)],
            "gold": chance.randrange(4),
            "long": phrase(280, 300),
        }

    rows = {
        name: datasets.Dataset.from_list([document() for _ in range(count)])
        for name, count in (("train", SHOTS), ("test", DOCUMENTS))
    }
    return lambda **_: rows


def shown(document):
    options = zip(LETTERS, document["options"], strict=True)
    return " ".join([document["question"], *(f"{a} {b}" for a, b in options), ":"])


def make_tasks(words):
    """Seven kinds; the two first also with examples before the question."""
    accuracy = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    question = lambda doc: f"{doc['question']} :"  # noqa: E731
    choice = {"output_type": "multiple_choice", "doc_to_target": "gold", "metric_list": accuracy}
    letters = choice | {"doc_to_text": shown, "doc_to_choice": list(LETTERS)}
    texts = choice | {"doc_to_text": question, "doc_to_choice": lambda doc: doc["options"]}
    few = {"num_fewshot": SHOTS, "fewshot_config": {"sampler": "first_n"}}
    kinds = {
        "letters": letters,
        "letters-few-shot": letters | few,
        "texts": texts,
        "texts-few-shot": texts | few | {"description": " ".join(words[:30]) + " "},
        "uneven": texts | {"doc_to_choice": lambda doc: doc["uneven"]},
        "contexts": choice
        | {
            "metric_list": accuracy[:1],
            "doc_to_text": lambda doc: doc["gold"] % 2,
            "doc_to_choice": lambda doc: [f"{doc['question']} {name}" for name in doc["names"]],
            "doc_to_target": lambda doc: doc["options"][0],
        },
        "last-word": {
            "output_type": "loglikelihood",
            "doc_to_text": question,
            "doc_to_target": lambda doc: f" {doc['options'][0]}",
            "metric_list": accuracy[:1],
        },
        "generation": {
            "output_type": "generate_until",
            "doc_to_text": question,
            "doc_to_target": lambda doc: doc["options"][0],
            "generation_kwargs": {"until": [".", words[0]], "max_gen_toks": 8, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        },
        "rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "long",
            "metric_list": [{"metric": "word_perplexity"}],
        },
    }
    source = draw_documents(words)
    common = {"custom_dataset": source, "test_split": "test", "fewshot_split": "train"}
    return {
        name: ConfigurableTask(config={"task": name, **common, **kind})
        for name, kind in kinds.items()
    }


def ask(lm, tasks):
    with quiet_lm_eval():
        found = evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    return found["samples"], {
        name: {key: value for key, value in figures.items() if "stderr" not in key}
        for name, figures in found["results"].items()
    }


def numbers(samples):
    """Every log-likelihood of a task; of a generating one the texts."""
    answers = [resp for sample in samples for resp in sample["filtered_resps"]]
    if isinstance(answers[0], str):
        return None, [answer.strip() for answer in answers]
    if isinstance(answers[0], float):
        return np.array(answers), None
    return np.array([float(a) for a, _ in answers]), [bool(b) for _, b in answers]


@pytest.mark.parametrize("kind", ["lab-poly", "olmoe", "mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("steered", [False, True], ids=["base", "steered"])
def test_answers_and_accuracies_are_those_of_lm_evals_own_model(kind, steered, recwarn):
    loaded, words = lab() if kind == "lab-poly" else random_model(kind)
    tasks = make_tasks(words)
    mine = TransformersLM(loaded, batch_tokens=128)
    peer = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=16, device="cpu")
    with steer(loaded.model, profile_of(loaded.model)) if steered else nullcontext():
        samples, results = ask(mine, tasks)
        their_samples, their_results = ask(peer, tasks)
    assert set(samples) == set(tasks)
    for name in tasks:
        (values, rest), (their_values, their_rest) = map(
            numbers, (samples[name], their_samples[name])
        )
        assert rest == their_rest, name
        if values is not None:
            np.testing.assert_allclose(values, their_values, atol=1e-4, rtol=1e-6, err_msg=name)
        if name != "rolling":
            assert results[name] == their_results[name]
    assert mine.shares
    assert [check.agrees for check in mine.sharing] == [True, True]
    assert not [w for w in recwarn if "computed whole" in str(w.message)]

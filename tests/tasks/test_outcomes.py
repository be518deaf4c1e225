"""Outcomes of a task on a random model, against lm-eval's own model, samples and metrics."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lm_eval.api.metrics import bits_per_byte as lm_eval_bits
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from scipy.special import log_softmax

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.registry import load_suite
from dsmoe_eval.results.cells import read_cell, read_samples
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs.cells import run_cell
from dsmoe_eval.tasks.items import Item
from dsmoe_eval.tasks.loading import load_tasks, quiet_lm_eval
from dsmoe_eval.tasks.outcomes import (
    bits_per_byte,
    check_outcome,
    gold_logprob,
    item_gold_logprob,
    outcome_values,
)
from dsmoe_eval.tasks.scoring import score_tasks

from ..engines.test_task_kinds import draw_documents, random_model
from ..results.test_cells import IDENTITY

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}} :",
    "doc_to_choice": "uneven",
    "doc_to_target": "gold",
}
KINDS = {
    "acc": CHOICE | {"metric_list": [{"metric": "acc"}]},
    "acc_norm": CHOICE | {"metric_list": [{"metric": "acc_norm"}]},
    "bits_per_byte": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "long",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A suite of three tasks on drawn documents, and a random model with windows of 64 tokens."""
    folder = tmp_path_factory.mktemp("suite")
    loaded, words = random_model("olmoe")
    documents = draw_documents(words)()
    rows = [dict(row, topic=f"t{number // 2}") for number, row in enumerate(documents["test"])]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "test_split": "test"}
    data["dataset_kwargs"] = {"data_files": {"test": str(folder / "rows.jsonl")}}
    cards = []
    for name, kind in KINDS.items():
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump({"task": f"own_{name}", **data, **kind})
        )
        roles = ["text"] if name == "bits_per_byte" else ["non-target"]
        card = {"name": f"own_{name}", "domain": "d", "roles": roles, "metric": name}
        cards.append(card | {"group_column": "topic"})
    suite = {"name": "s", "description": "", "tasks_dir": ".", "splits": {"test": "test"}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite | {"tasks": cards}))
    suite = load_suite(str(folder / "suite.yaml"))
    loaded.model.config.max_position_embeddings = 64
    return loaded, load_tasks(suite, suite.tasks, "test", None)


def test_cells_hold_what_lm_evals_own_model_gives(asked, tmp_path):
    loaded, tasks = asked
    lm, folder = TransformersLM(loaded, 512), RunFolder(tmp_path)
    peer = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4, device="cpu")
    with quiet_lm_eval():
        found = evaluate(
            peer, {name: one.task for name, one in tasks.items()}, bootstrap_iters=0,
            log_samples=True,
        )  # fmt: skip
    for name, task in tasks.items():
        identity = dataclasses.replace(IDENTITY, task=name)
        run_cell(folder, identity, lm, task, None)
        rows, theirs = read_samples(folder, identity.id), found["samples"][name]
        assert rows["cluster"].nunique() == len(rows) / 2
        if task.card.is_text:
            level = read_cell(folder, identity.id)["bits_per_byte"]
            assert level == pytest.approx(found["results"][name]["bits_per_byte,none"], abs=1e-4)
            own = [one["filtered_resps"][0] for one in theirs]
            np.testing.assert_allclose(rows["loglikelihood"], own, atol=1e-4, rtol=1e-6)
            pairs = list(zip(rows["loglikelihood"], rows["bytes"], strict=True))
            assert level == pytest.approx(lm_eval_bits(pairs), abs=1e-9)
            counted = rows["loglikelihood"].to_numpy(), rows["bytes"].to_numpy()
            assert bits_per_byte(*counted) == pytest.approx(level, abs=1e-12)
            assert rows["words"].tolist() == [len(text.split()) for text in rows["question"]]
            continue
        for sample, ours in zip(theirs, rows.to_dict("records"), strict=True):
            likelihoods = np.array([float(value) for value, _ in sample["filtered_resps"]])
            options = [arguments[1].strip() for arguments in sample["arguments"]]
            lengths = [len(one) if name == "own_acc_norm" else 1 for one in options]
            wanted = log_softmax(likelihoods / lengths)[sample["doc"]["gold"]]
            assert ours["gold_logprob"] == pytest.approx(wanted, abs=1e-4)
            again = log_softmax(np.array(ours["loglikelihoods"]) / lengths)
            assert ours["gold_logprob"] == pytest.approx(again[sample["doc"]["gold"]], abs=1e-9)
            assert ours["score"] == (again.argmax() == sample["doc"]["gold"])


def test_tuning_takes_the_outcome_of_its_plan(asked):
    loaded, tasks = asked
    lm = TransformersLM(loaded, 512)
    choices = [one for one in tasks.values() if not one.card.is_text]
    values = outcome_values(lm, choices, "gold_logprob")
    assert all((own < 0).all() and own.shape == (6,) for own in values.values())
    scores = outcome_values(lm, choices, "score")
    for name, own in score_tasks(lm, choices).items():
        np.testing.assert_array_equal(scores[name], own)


def test_several_right_options_have_the_sum_of_their_probabilities():
    likelihoods = [-1.0, -2.0, -4.0]
    both = gold_logprob(likelihoods, ["a", "b", "c"], (0, 2), "acc")
    total = sum(map(math.exp, likelihoods))
    assert both == pytest.approx(math.log((math.exp(-1) + math.exp(-4)) / total), abs=1e-12)
    assert gold_logprob(likelihoods, ["a", "b", "c"], (0, 1, 2), "acc") == pytest.approx(0)


def test_items_without_options_have_no_probability():
    assert item_gold_logprob(Item("i", "q", (), "c"), [], "exact_match") is None
    card = SimpleNamespace(name="sums", is_text=False)
    generating = SimpleNamespace(card=card, task=SimpleNamespace(OUTPUT_TYPE="generate_until"))
    check_outcome([generating], "score")

"""The paper's plan on a small random model: real questions and extraction, made-up GPQA."""

import json
import random

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from dsmoe_eval.registry import find_card, load_suite
from dsmoe_eval.results.cells import read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import run
from dsmoe_eval.tasks.loading import load_tasks

from ..conftest import FEW_ROWS
from ..tasks.made_up import write_aime

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def gpqa(tmp_path_factory):
    """A hub snapshot in GPQA's layout, of made-up items."""
    folder = tmp_path_factory.mktemp("hub")
    place = folder / "Idavidrein" / "gpqa"
    place.mkdir(parents=True)
    draw = random.Random(0)
    rows = [
        {
            "Question": f"What does particle {draw.random()} do in experiment {n}?",
            "Correct Answer": f"It turns {n}",
            **{f"Incorrect Answer {i}": f"It stays {n} {i}" for i in (1, 2, 3)},
        }
        for n in range(12)
    ]
    pd.DataFrame(rows).to_csv(place / "gpqa_diamond.csv", index=False)
    config = {"config_name": "gpqa_diamond"}
    config["data_files"] = [{"split": "train", "path": "gpqa_diamond.csv"}]
    (place / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """OLMoE's shape, 0.4M parameters, with a tokenizer that knows the questions' words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    questions = pd.read_parquet(FEW_ROWS / "mmlu_pro" / "test.parquet").question
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<eos>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    words.train_from_iterator(questions, trainer)
    folder = tmp_path_factory.mktemp("model")
    ends = {"eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **ends).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "olmoe", vocab_size=2000, hidden_size=32, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_experts=8, num_experts_per_tok=2,
        max_position_embeddings=16384, pad_token_id=1, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The paper's plan, its smallest half."""
    content = yaml.safe_load(find_card("plans", "paper").read_text())
    content |= {"variants": ["base", "sham", "contrast", "random"], "targets": ["math"]}
    content["tuning"] = {"expert_counts": [2], "strengths": {"bias": [1.0]}}
    del content["sft"]
    path = tmp_path_factory.mktemp("plans") / "half.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def shams_of(folder):
    return [arm for arm in read_finished(folder.root).result.arms if arm.variant == "sham"]


def test_the_paper_s_plan_runs_through_and_resumes(plan, model, gpqa, real_data, tmp_path):
    data = [real_data("mmlu_pro", "mmlu", "aime", "math500", "mcqa"), gpqa]
    settings = {"data": data, "limit": 2, "device": "cpu", "model": model, "console": QUIET}
    first = run(plan, tmp_path / "run", **settings)
    result = json.loads(first.comparisons.read_text())
    arm = next(arm for arm in result["arms"] if arm["variant"] == "contrast")
    domains = {row["domain"] for row in arm["domains"]}
    assert domains >= {"graduate-science", "aime-2024", "aime-2025", "biology"}
    assert [a.equal_to_base for a in shams_of(first)] == [True]
    samples = read_samples(RunFolder(tmp_path / "run"), arm["cells"]["mmlu_pro_math"])
    assert samples.question.str.startswith("Question:\n").all()
    assert set(samples.gold) <= set("ABCDEFGHIJ")
    gone = first.cell(arm["cells"]["aime24"])
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    first.comparisons.unlink()
    again = run(plan, tmp_path / "run", **settings)
    assert json.loads(again.comparisons.read_text()) == result


KINDS = """
name: kinds
description: every kind of task that lies in a local folder
markers: {"?": 1}
splits:
  identification: {split: test, buckets: [0, 10]}
  tuning: {split: test, buckets: [10, 25]}
  test: {split: test, buckets: [25, 100]}
tasks:
  - {name: mmlu_pro_math, domain: math, roles: [target, identification], metric: exact_match,
     filter: custom-extract}
  - {name: mmlu_college_biology, domain: biology, roles: [target, identification], metric: acc}
  - {name: mmlu_abstract_algebra, domain: algebra, roles: [non-target, identification],
     metric: acc}
  - {name: arc_challenge, domain: school, roles: [non-target, identification], metric: acc}
  - {name: openbookqa, domain: elementary, roles: [non-target, identification], metric: acc}
  - {name: hendrycks_math500, domain: competition, roles: [non-target], metric: exact_match}
  - {name: aime24, domain: olympiad, roles: [non-target], metric: exact_match,
     splits: {tuning: {split: train, buckets: [0, 25]}, test: {split: train, buckets: [25, 100]}}}
"""


def test_every_kind_of_task_runs_on_local_files(model, tmp_path):
    data = [FEW_ROWS, write_aime(tmp_path)]
    (tmp_path / "kinds.yaml").write_text(KINDS)
    content = {
        "name": "kinds", "description": "kinds", "models": ["lab-poly"], "suite": "kinds.yaml",
        "variants": ["base", "sham", "contrast", "random"], "seed": 0, "margin": 0.05,
        "significance_level": 0.05, "tuning": {"expert_counts": [2], "strengths": {"bias": [1.0]}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    plan = str(tmp_path / "plan.yaml")
    settings = {"limit": 2, "device": "cpu", "model": model, "data": data, "console": QUIET}
    done = run(plan, tmp_path / "run", **settings)
    result = json.loads(done.comparisons.read_text())
    assert len(result["base"]) == 7
    assert all(row["n"] == 2 for row in result["base"])
    shams = shams_of(done)
    assert shams
    assert all(arm.equal_to_base for arm in shams)


def test_every_item_of_the_local_suites_shows_its_options(published):
    """A question may mention the words of an option; no item may be refused for that."""
    suite = load_suite("retention")
    tasks = [task for task in suite.tasks if task.name in {"arc_challenge", "openbookqa"}]
    for part in ("identification", "tuning", "test"):
        loaded = load_tasks(suite, tasks, part, None, [published("mcqa")])
        assert {name: len(one.items) > 1 for name, one in loaded.items()} == {
            "arc_challenge": True, "openbookqa": True,
        }  # fmt: skip

"""A plan in vLLM: the answers of the same plan in transformers; what vLLM cannot do is refused."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_plan, load_suite
from dsmoe_eval.runs import answering as answering_module
from dsmoe_eval.runs import cells, job, run
from dsmoe_eval.runs import stages as stages_module
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.plan_checks import check_engine, check_plan
from dsmoe_eval.variants import get_variant

QUIET = Console(quiet=True)
CONTENT = yaml.safe_load(find_card("plans", "lab").read_text())
CONTENT |= {
    "targets": ["biology"],
    "variants": ["base", "sham", "contrast", "random"],
    "tuning": {"expert_counts": [4], "strengths": {"bias": [1.0]}},
}


def write(folder, **changes):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(CONTENT | changes))
    return str(path)


def check(path):
    plan, _ = load_plan(path)
    suite = load_suite(plan.suite)
    check_plan(plan, suite, [get_variant(name) for name in plan.variants], suite.targets)


@pytest.mark.parametrize(
    ("variant", "changes", "reason"),
    [
        ("dsmoe", {"tuning": {"expert_counts": [4], "strengths": {"bias": [1], "reweight": [1]}}},
         "'dsmoe' needs identification.saliency_model in the plan"),
        ("easy-ep+bias", {}, r"'easy-ep\+bias' needs engine: transformers, since vLLM does not sh"),
        ("sft-lora", {}, "'sft-lora' needs engine: transformers, since vLLM does not train"),
    ],
)  # fmt: skip
def test_what_vllm_cannot_give_is_refused_before_anything_is_loaded(
    tmp_path, monkeypatch, variant, changes, reason
):
    monkeypatch.setattr(job, "load_splits", lambda *_: pytest.fail("loaded"))
    changes = {"variants": [*CONTENT["variants"], variant], **changes}
    check(write(tmp_path, **changes))
    plan = write(tmp_path, engine="vllm", **changes)
    with pytest.raises(UserError, match=reason):
        run(plan, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_another_model_gives_the_saliency(tmp_path):
    tuning = {"expert_counts": [4], "strengths": {"bias": [1.0], "reweight": [1.0]}}
    variants = [*CONTENT["variants"], "dsmoe"]
    told = {"saliency_model": "lab-poly"}
    check(write(tmp_path, engine="vllm", variants=variants, tuning=tuning, identification=told))


def test_the_papers_plan_for_vllm_asks_for_nothing_that_it_lacks():
    plan, _ = load_plan("paper-vllm")
    assert (plan.engine, plan.tensor_parallel) == ("vllm", 8)
    check("paper-vllm")
    whole, _ = load_plan("paper")
    assert {*plan.models} < {*whole.models}


def test_vllm_that_is_not_there_is_told_of_at_once(tmp_path, monkeypatch):
    plan, _ = load_plan(write(tmp_path, engine="vllm"))
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="vLLM is not installed; pip install"):
        check_engine(plan)
    check_engine(plan.model_copy(update={"engine": "transformers"}))


def test_vllm_is_asked_for_what_the_plan_says(tmp_path, monkeypatch):
    asked, told = [], []
    lm = SimpleNamespace(check_context_length=lambda _: None)
    engine = SimpleNamespace(
        tokenizer=SimpleNamespace(chat_template=None),
        generation=SimpleNamespace(ends=(), used=lambda decoding: {"by": decoding}),
        language_model=lambda *settings: told.append(settings) or lm,
        close=lambda: None,
    )

    def load(*arguments, **options):
        asked.append((arguments, options))
        return engine

    monkeypatch.setattr(job, "load_engine", load)
    monkeypatch.setattr(job, "in_format", lambda task, _: task)
    monkeypatch.setattr(job, "check_engine", lambda _: None)
    monkeypatch.setattr(job, "_run_identity", lambda *_: {})
    path = write(tmp_path, engine="vllm", tensor_parallel=2, batch_tokens=64, seed=3)
    job.prepare(path, tmp_path / "run", RunOptions(limit=2))
    parallel = {"tensor_parallel_size": 2, "enable_expert_parallel": False}
    options = {"batch_tokens": 64, "dtype": None, "enforce_eager": True, **parallel}
    assert asked == [(("lab-poly", "vllm", None), options)]
    ((wanted, seed, used),) = told
    assert (seed, wanted.name, used) == (3, "plain", {"by": "task"})


def test_an_engine_is_closed_however_a_run_ends(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(TransformersEngine, "close", lambda _: closed.append(1))
    path = write(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        run(path, tmp_path / "full", limit=2, device="cpu", console=QUIET)
    monkeypatch.setattr(stages_module, "count_domains", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(path, tmp_path / "run", limit=2, device="cpu", console=QUIET)
    assert len(closed) == 2


def read(folder):
    """(variant, task) -> its `cell.json` and its rows."""
    found = {}
    for path in folder.root.glob("cells/*/cell.json"):
        cell = json.loads(path.read_text())
        identity = cell["identity"]
        rows = pd.read_parquet(path.parent / "samples.parquet")
        found[identity["variant"], identity["task"]] = cell, rows
    return found


def numbers(rows):
    """The options' log-likelihoods of all items; none where answers are generated."""
    return np.array([x for row in rows["loglikelihoods"] for x in row], dtype=float)


def interrupted(monkeypatch, path, folder):
    """Ends after some cells of the steered arms."""
    honest, calls = cells.run_cell, []

    def interrupt(*args):
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        honest(*args)

    with monkeypatch.context() as patch:
        patch.setattr(answering_module, "run_cell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(path, folder, limit=6, console=QUIET)


@pytest.mark.vllm
@pytest.mark.slow
def test_a_plan_gives_what_it_gives_in_transformers(tmp_path, monkeypatch):
    """Interrupted and gone on with in another engine, too."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    variants = [*CONTENT["variants"], "residual"]
    tuning = CONTENT["tuning"] | {"residual": {"depths": [0.33], "strengths": [0.5]}}
    plan = write(tmp_path, variants=variants, tuning=tuning)
    expected = read(run(plan, tmp_path / "a", limit=6, device="cpu", console=QUIET))
    path = write(tmp_path, engine="vllm", variants=variants, tuning=tuning)
    interrupted(monkeypatch, path, tmp_path / "b")
    before = {name.name for name in (tmp_path / "b" / "cells").iterdir()}
    monkeypatch.setattr(
        "dsmoe_eval.tasks.outcomes.score_tasks", lambda *_: pytest.fail("tuned twice")
    )
    folder = run(path, tmp_path / "b", limit=6, console=QUIET)
    found = read(folder)
    assert len(before) == 9
    assert before < {cell["id"] for cell, _ in found.values()}
    assert found.keys() == expected.keys()
    for key, (cell, rows) in found.items():
        other = expected[key][1]
        assert list(rows["answer"]) == list(other["answer"])
        np.testing.assert_allclose(numbers(rows), numbers(other), atol=1e-3)
        identity = cell["identity"]
        assert (identity["engine"], identity["dtype"]) == ("vllm", "float32")
        assert ["tensor_parallel", 1] in identity["engine_settings"]
        assert "vllm" in dict(identity["versions"])
    for task in {task for _, task in found}:  # to the bit, though another engine answered base
        base, sham = (found[variant, task][1] for variant in ("base", "sham"))
        np.testing.assert_array_equal(numbers(base), numbers(sham))
    probed = [cell["probe"] for (variant, _), (cell, _) in found.items() if variant == "random"]
    assert all(one["logit_max_change"] > 0 and one["selection_changed"] > 0 for one in probed)
    assert len(list(folder.root.glob("routing/*.json"))) == 4

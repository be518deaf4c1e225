"""A plan in vLLM: the answers of the same plan in transformers; what vLLM cannot do is refused."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.engines.vllm import steered_vllm as steered_module
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_plan, load_suite
from dsmoe_eval.reports.run_text import engine_routing
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs import RunOptions, cells, job, roles, run
from dsmoe_eval.runs import answering as answering_module
from dsmoe_eval.runs import stages as stages_module
from dsmoe_eval.runs.leases import RunPart, Shard
from dsmoe_eval.runs.plan_checks import check_engine, check_plan
from dsmoe_eval.runs.run import run_with
from dsmoe_eval.steering import Profile
from dsmoe_eval.variants import get_variant

from ..dense import saved_dense

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
         "'dsmoe' needs learner: transformers, since vLLM computes no gradients"),
        ("easy-ep+bias", {}, r"'easy-ep\+bias' needs learner: transformers, since vLLM does not s"),
        ("influence+bias", {"identification": {"saliency_model": "lab-poly"}},
         r"'influence\+bias' needs learner: transformers, since vLLM computes no gradients, which"),
        ("sft-lora", {}, "'sft-lora' needs learner: transformers, since vLLM does not train"),
    ],
)  # fmt: skip
def test_what_vllm_cannot_give_is_refused_before_anything_is_loaded(
    tmp_path, monkeypatch, variant, changes, reason
):
    monkeypatch.setattr(job, "load_splits", lambda *_: pytest.fail("loaded"))
    changes = {"variants": [*CONTENT["variants"], variant], **changes}
    check(write(tmp_path, **changes))
    check(write(tmp_path, engine="vllm", **changes))
    plan = write(tmp_path, engine="vllm", learner="vllm", **changes)
    with pytest.raises(UserError, match=reason):
        run(plan, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_another_model_gives_the_saliency(tmp_path):
    tuning = {"expert_counts": [4], "strengths": {"bias": [1.0], "reweight": [1.0]}}
    variants = [*CONTENT["variants"], "dsmoe"]
    told = {"saliency_model": "lab-poly"}
    both = {"engine": "vllm", "learner": "vllm"}
    check(write(tmp_path, **both, variants=variants, tuning=tuning, identification=told))


def test_the_papers_plan_for_vllm_asks_for_nothing_that_it_lacks():
    plan, _ = load_plan("paper-vllm")
    assert (plan.engine, plan.learner, plan.tensor_parallel) == ("vllm", "vllm", 8)
    check("paper-vllm")
    whole, _ = load_plan("paper")
    assert {*plan.models} < {*whole.models}


def test_vllm_that_is_not_there_is_told_of_at_once(tmp_path, monkeypatch):
    plan, _ = load_plan(write(tmp_path, engine="vllm"))
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="vLLM is not installed; pip install"):
        check_engine(plan)
    check_engine(plan.model_copy(update={"engine": "transformers"}))


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
    """(variant, task, target) -> its `cell.json` and its rows."""
    found = {}
    for path in folder.root.glob("cells/*/cell.json"):
        cell = json.loads(path.read_text())
        identity = cell["identity"]
        rows = pd.read_parquet(path.parent / "samples.parquet")
        found[identity["variant"], identity["task"], identity["target"]] = cell, rows
    return found


def numbers(rows):
    """The options' log-likelihoods of all items; none where answers are generated."""
    return np.array([x for row in rows["loglikelihoods"] for x in row], dtype=float)


def interrupted(monkeypatch, path, folder, cells_done, limit):
    """Ends after some cells."""
    honest, calls = cells.store_cell, []

    def interrupt(*args):
        calls.append(1)
        if len(calls) > cells_done:
            raise KeyboardInterrupt
        honest(*args)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "store_cell", interrupt)
        patch.setattr(answering_module, "store_cell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(path, folder, limit=limit, device="cpu", console=QUIET)


def both_engines(tmp_path, monkeypatch, stops, limit, **changes):
    """The same plan in transformers, and in vLLM with interruptions: the folders of both runs.

    Each start loads only what is still missing: the learner first, and once more for each merged
    checkpoint; nothing where all is answered.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed")
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    one = run(write(tmp_path, **changes), tmp_path / "a", limit=limit, device="cpu", console=QUIET)
    path, loads = write(tmp_path, engine="vllm", **changes), []
    learn, start = roles.load_engine, steered_module.start_llm

    monkeypatch.setattr(
        roles, "load_engine", lambda *a, **b: loads.append("learner") or learn(*a, **b)
    )

    def started(name, *others):
        loads.append("merged" if ".merged." in name else "vllm")
        return start(name, *others)

    monkeypatch.setattr(steered_module, "start_llm", started)
    for number, stop in enumerate(stops):
        interrupted(monkeypatch, path, tmp_path / "b", stop, limit)
        assert len(list((tmp_path / "b" / "cells").iterdir())) == sum(stops[: number + 1])
    monkeypatch.setattr(
        "dsmoe_eval.tasks.outcomes.score_tasks", lambda *_: pytest.fail("tuned twice")
    )
    other = run(path, tmp_path / "b", limit=limit, device="cpu", console=QUIET)
    assert not list(other.root.glob(".*.tmp")), "a merged checkpoint was left behind"
    before, loaded = other.comparisons.read_bytes(), list(loads)
    again = run(path, tmp_path / "b", limit=limit, device="cpu", console=QUIET)
    assert again.comparisons.read_bytes() == before
    assert loads == loaded, "all is answered, and nothing is loaded"
    return one, other, loads


def one_arms(folder):
    return json.loads(folder.comparisons.read_text())["arms"]


def check_same(one, other):
    """Every item of every cell; log-likelihoods of a few tokens each, in float32, to 2e-5."""
    expected, found = read(one), read(other)
    assert found.keys() == expected.keys()
    for key, (cell, rows) in found.items():
        mate, theirs = expected[key]
        assert list(rows["answer"]) == list(theirs["answer"])
        assert list(rows["score"]) == list(theirs["score"])
        np.testing.assert_allclose(numbers(rows), numbers(theirs), rtol=1e-6, atol=2e-5)
        identity, others = cell["identity"], mate["identity"]
        assert (identity["engine"], identity["dtype"]) == ("vllm", "float32")
        assert ["tensor_parallel", 1] in identity["engine_settings"]
        assert "vllm" in dict(identity["versions"])
        for name in ("profile", "adapter"):  # learned by the same engine
            assert identity[name] == others[name]
    same = ("variant", "target", "settings", "cells", "information", "prompt_tokens")
    for mine, theirs in zip(one_arms(other), one_arms(one), strict=True):
        assert [mine[n] for n in same if n != "cells"] == [theirs[n] for n in same if n != "cells"]
        assert mine["target_result"] == theirs["target_result"]
    return found


@pytest.mark.vllm
@pytest.mark.slow
def test_a_plan_gives_what_it_gives_in_transformers(tmp_path, monkeypatch):
    """Interrupted in the first engine, then in that of the fine-tuned arm, and gone on with."""
    variants = ["base", "sft-lora", "sham", "dsmoe", "contrast", "random", "residual"]
    strengths = {"bias": [1.0], "reweight": [4.0]}
    residual = {"depths": [0.33], "strengths": [0.5]}
    tuning = {"expert_counts": [4], "strengths": strengths, "residual": residual}
    sft = CONTENT["sft"] | {"epochs": 2}
    one, other, loads = both_engines(
        tmp_path, monkeypatch, [9, 35], 6, variants=variants, tuning=tuning, sft=sft
    )
    first = ["learner", "vllm"]
    assert loads == [*first, "vllm", "learner", "merged", "learner", "merged"]
    found = {(variant, task): cell for (variant, task, _), cell in check_same(one, other).items()}
    for task in {task for _, task in found}:  # base was answered alone, sham beside other arms
        base, sham = (found[variant, task][1] for variant in ("base", "sham"))
        np.testing.assert_allclose(numbers(base), numbers(sham), rtol=1e-6, atol=1e-5)
        assert (numbers(found["sft-lora", task][1]) != numbers(base)).all()
    told = json.loads(other.comparisons.read_text())["routing"]
    assert told["learner"] == "transformers"
    assert told["tokens"] > 100
    assert told["different"] < 0.001, "in float32 hardly a near tie is decided otherwise"
    assert json.loads(one.comparisons.read_text())["routing"] is None
    (said,) = engine_routing(read_finished(other.root).result)
    assert "tokens of identification text, 4 layers) 0.0" in said
    probed = [cell["probe"] for (variant, _), (cell, _) in found.items() if variant == "random"]
    assert all(one["logit_max_change"] > 0 for one in probed)
    routings = sorted(path.name for path in other.root.glob("routing/*.json"))
    assert len(routings) == 5
    for name in routings:
        mine, theirs = (json.loads((f.root / "routing" / name).read_text()) for f in (other, one))
        np.testing.assert_allclose(mine["steered"], theirs["steered"], atol=0.01)


@pytest.mark.vllm
@pytest.mark.full
def test_the_plan_lab_gives_what_it_gives_in_transformers(tmp_path, monkeypatch):
    """All of its variants on all of its targets, killed twice: early, and in a fine-tuned arm."""
    whole = yaml.safe_load(find_card("plans", "lab").read_text())
    changed = {name: whole[name] for name in ("targets", "variants", "tuning") if name in whole}
    monkeypatch.delitem(CONTENT, "targets")
    one, other, loads = both_engines(tmp_path, monkeypatch, [20, 175], None, **changed)
    assert loads[:3] == ["learner", "vllm", "vllm"]
    assert loads.count("merged") >= 4
    check_same(one, other)


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize("added", [(), ("residual",)], ids=["compiled", "eager"])
def test_a_plan_of_neurons_gives_what_it_gives_in_transformers(tmp_path, monkeypatch, added):
    """Identified in transformers, answered by neurons that are multiplied in vLLM."""
    saved_dense("llama", tmp_path / "model")
    tuning = {
        "expert_counts": [8], "strengths": {"amplify": [1.0], "reweight": [1.0]},
        "residual": {"depths": [0.33], "strengths": [0.5]},
    }  # fmt: skip
    one, other, loads = both_engines(
        tmp_path, monkeypatch, [5], 4, model=str(tmp_path / "model"), sites="neurons",
        variants=["base", "dsmoe", "lape+amplify", *added], controls="full", placebo_draws=1,
        tuning=tuning,
    )  # fmt: skip
    # A compiled model shows no neurons: it is run eagerly before, and pictures are the learner's.
    again = [] if added else ["vllm", "learner"]
    assert loads == ["learner", "vllm", "vllm", *again]
    found = check_same(one, other)
    steered = [cell["probe"] for (name, *_), (cell, _) in found.items() if name == "lape+amplify"]
    assert steered
    for probe in steered:
        assert (probe["null_max_difference"], probe["logit_max_change"] > 0) == (0.0, True)
        assert probe["active_experts"] == (3 if added else None)
    told = json.loads(other.comparisons.read_text())["routing"]
    assert told["different"] < 0.001


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize(
    ("changes", "variants"),
    [({"learner": "vllm"}, ["contrast", "random"]), ({"routing_from": "engine"}, ["dsmoe"])],
)
def test_the_same_experts_by_the_routing_of_vllm(tmp_path, changes, variants):
    """All of them from vLLM, or its routing with the saliency of transformers."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    tuning = {"expert_counts": [4], "strengths": {"bias": [1.0], "reweight": [4.0]}}
    same = {"variants": ["base", *variants], "tuning": tuning}
    one = run(write(tmp_path, **same), tmp_path / "a", limit=4, device="cpu", console=QUIET)
    plan = write(tmp_path, engine="vllm", **same, **changes)
    other = run(plan, tmp_path / "b", limit=4, console=QUIET)
    chosen = [
        {
            path.name.rpartition("--")[0]: Profile.load(path)
            for path in folder.root.glob("profiles/*")
        }
        for folder in (one, other)
    ]
    assert chosen[0].keys() == chosen[1].keys()
    for name, profile in chosen[1].items():
        assert profile.source.engine == "vllm"
        experts = [[(e.layer, e.expert) for e in each[name].experts] for each in chosen]
        assert experts[0] == experts[1]
    told = json.loads(other.comparisons.read_text())["routing"]
    assert (told is None) == ("learner" in changes)


@pytest.mark.vllm
@pytest.mark.full
def test_shards_in_vllm_end_like_one_run(tmp_path, monkeypatch):
    """One after the other, a fine-tuned arm and a task's arms in common batches among them."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    variants = ["base", "sft-lora", "sham", "contrast", "prompt"]
    sft = CONTENT["sft"] | {"epochs": 1}
    path = write(tmp_path, engine="vllm", variants=variants, sft=sft)
    options = RunOptions(limit=4, device="cpu")
    one = run_with(path, tmp_path / "a", options, QUIET)
    done = 0
    for shard in (Shard(1, 2), Shard(2, 2)):
        run_with(path, tmp_path / "b", options, QUIET, RunPart(shard.worker, shard=shard))
        before, done = done, len(list((tmp_path / "b" / "cells").iterdir()))
        assert done > before
    assert not (tmp_path / "b" / "comparisons.json").exists()
    monkeypatch.setattr(cells, "store_cell", lambda *_: pytest.fail("answered twice"))
    monkeypatch.setattr(answering_module, "store_cell", cells.store_cell)
    other = run_with(path, tmp_path / "b", options, QUIET)
    assert other.comparisons.read_bytes() == one.comparisons.read_bytes()
    files = [{str(p.relative_to(f.root)) for p in f.root.rglob("*")} for f in (one, other)]
    assert files[0] == files[1]


@pytest.mark.vllm
@pytest.mark.full
def test_quantized_models_are_served_as_checkpoints(tmp_path, monkeypatch):
    """Their arms answer after all others, and vLLM is started once for a model in turn."""
    variants = ["base", "contrast", "contrast-int4", "contrast-int4+sham", "base-int4", "base-fp8"]
    one, other, loads = both_engines(tmp_path, monkeypatch, [9], 6, variants=variants)
    last = loads[loads.index("merged") :]
    assert (last.count("merged"), last.count("vllm")) == (2, 0)
    check_same(one, other)
    arms = {arm["variant"]: arm for arm in one_arms(other)}
    assert {arm["acted"]["verdict"] for arm in arms.values()} == {"acted"}
    assert arms["contrast-int4"]["acted"]["quantized"] == 1
    assert arms["contrast-int4"]["probe"]["logit_max_change"] > 0
    result = read_finished(other.root).result
    assert all(result.equals_model(arm) for arm in result.arms if arm.variant.endswith("+sham"))


@pytest.mark.vllm
@pytest.mark.full
def test_adapters_of_a_quantized_model_are_served_merged_into_it(tmp_path, monkeypatch):
    """Trained on the rounded weights by the learner, and merged into these by it."""
    sft = CONTENT["sft"] | {"epochs": 1}
    variants = ["base", "base-int4", "sft-lora-int4"]
    one, other, _ = both_engines(tmp_path, monkeypatch, [9], 6, variants=variants, sft=sft)
    found = {(variant, task): cell for (variant, task, _), cell in check_same(one, other).items()}
    for variant, task in found:
        if variant == "sft-lora-int4":
            tuned, rounded = (found[name, task][1] for name in (variant, "base-int4"))
            assert (numbers(tuned) != numbers(rounded)).all()
    (arm,) = (arm for arm in one_arms(other) if arm["variant"] == "sft-lora-int4")
    assert (arm["acted"]["verdict"], arm["acted"]["quantized"]) == ("acted", 1)

"""The time of each step against the same arithmetic, written out for one plan."""

import dataclasses
import math
import re

import pytest

from dsmoe_eval.executors.costs import model_cost
from dsmoe_eval.executors.schedule import Needs
from dsmoe_eval.registry import builtin_folder, load_model_card, load_plan
from dsmoe_eval.runs.arms import plan_run

MODEL, THINKS = "olmoe-1b-7b", "gpt-oss-20b"


@pytest.fixture
def found(lab_estimate):
    return lab_estimate


def planned(**changes):
    plan, path = load_plan("lab")
    return plan_run(plan.model_copy(update=changes), path)


def stages(run, found, model=MODEL, **more):
    cost = model_cost(run, found, model, Needs(1, 1), **more)
    return cost, {stage.name: stage for stage in cost.stages}


def seconds_of(task, answers, card, longest):
    """In transformers: what is scored, or a prompt and 64 answers at once."""
    read = 2 * card.parameters.active * answers * task.prompt_tokens / 780e12
    if not task.answer_tokens:
        return read * 18.1
    step = card.parameters.total * 2 / (13.8e9 * 1580 / 64)
    return read * 5.4 + math.ceil(answers / 64) * longest * step


@pytest.mark.parametrize("model", [MODEL, THINKS])
def test_each_answer_of_the_plan_has_its_time(found, model):
    run, card = planned(stability=load_plan("paper")[0].stability), load_model_card(model)
    cost, by_name = stages(run, found, model)
    tasks = {task.task: task for task in found.tasks}
    longest = {t.task: max(t.answer_tokens, card.answer_tokens or 0) for t in found.tasks}

    def one(name, split):
        task = tasks[name]
        return seconds_of(task, getattr(task, split) * task.samples, card, longest[name])

    base = [one(name, "test") for name in run.base_tasks]
    arms = [[one(name, "test") for name in arm.tasks] for arm in run.arms]
    is_fine = [arm.variant.kind == "sft" for arm in run.arms]
    fine = [cell for cells, fits in zip(arms, is_fine, strict=True) if fits for cell in cells]
    rest = [cell for cells, fits in zip(arms, is_fine, strict=True) if not fits for cell in cells]
    assert sorted(by_name["cells"].pieces) == pytest.approx(sorted(base + rest))
    assert sorted(by_name["fine-tuned cells"].pieces) == pytest.approx(sorted(fine))
    assert len(base + rest + fine) == found.cells
    tuning = sum(one(name, "tuning") for name in run.base_tasks)
    assert by_name["tune base"].pieces == pytest.approx((tuning,))
    tuned = [arm for arm in run.arms if arm.grid]
    grids = [len(arm.grid) * sum(one(name, "tuning") for name in arm.tasks) for arm in tuned]
    assert by_name["tune"].pieces == pytest.approx(grids)
    again = [one(run.suite.target_task(name).name, "test") for name in run.targets]
    assert sum(by_name["stability"].pieces) == pytest.approx(
        (5 + 2 * len(run.suite.wordings)) * sum(again)
    )
    assert cost.load == card.weights_gib * 2**30 / 1e9
    assert cost.work == sum(sum(stage.pieces) for stage in cost.stages)
    assert [name for name, _ in cost.critical] == ["load", *by_name]
    alone = {name for name, stage in by_name.items() if len(stage.pieces) == 1}
    assert alone == {"learn", "tune base", "compare"}


def test_learning_and_training(found):
    run, card = planned(), load_model_card(MODEL)
    _, by_name = stages(run, found)
    rate = 4 * card.parameters.active * 14.1 / 780e12
    assert by_name["learn"].pieces == pytest.approx((found.identification_tokens * rate,))
    tasks = {task.task: task for task in found.tasks}
    targets = [tasks[run.suite.target_task(name).name] for name in run.targets]
    tokens = [10 * task.tuning * task.prompt_tokens for task in targets]
    assert by_name["fine-tune"].pieces == pytest.approx([rate * one for one in tokens])
    generated = run.plan.identification.model_copy(update={"phase": "generated"})
    _, more = stages(planned(identification=generated), found)
    step = card.parameters.total * 2 / (13.8e9 * 1580 / 64)
    batches = math.ceil(found.identification_texts / 64)
    _, influenced = stages(run, dataclasses.replace(found, influence_tokens=5000))
    extra = influenced["learn"].pieces[0] - by_name["learn"].pieces[0]
    assert extra == pytest.approx(5000 * rate)
    extra = more["learn"].pieces[0] - by_name["learn"].pieces[0]
    assert extra == pytest.approx(batches * 64 * step)


def test_vllm_answers_steered_arms_together(found):
    card = load_model_card(MODEL)
    run = planned(engine="vllm", tensor_parallel=2)
    cost, by_name = stages(run, found)
    _, of_transformers = stages(planned(), found)
    loading = card.weights_gib * 2**30 / 1e9
    assert cost.load == pytest.approx(loading + 60)
    # The learner is loaded first.
    learn, before = by_name["learn"].pieces[0], of_transformers["learn"].pieces[0]
    assert learn == pytest.approx(before + loading)
    steered = [arm for arm in run.arms if arm.variant.has_profile]
    assert len(by_name["cells"].pieces) == 2 * len(run.base_tasks)
    task = next(task for task in found.tasks if task.answer_tokens)
    times = sum(task.task in arm.tasks for arm in steered)
    step = card.weights_gib * 2**30 / 1.25e12 / 2
    read = 2 * card.parameters.active * task.prompt_tokens * 5.4 / 780e12 / 2
    together = times * task.test * read
    together += math.ceil(times * task.test / 256) * task.answer_tokens * step
    places = [name for name in run.base_tasks if any(name in arm.tasks for arm in steered)]
    place = len(run.base_tasks) + places.index(task.task)
    assert by_name["cells"].pieces[place] == pytest.approx(together)
    assert min(by_name["fine-tuned cells"].pieces) > cost.load
    assert sum(by_name["tune"].pieces) < sum(of_transformers["tune"].pieces)


def test_what_is_not_known_is_left_out(found):
    run = planned()
    unknown = [dataclasses.replace(t, prompt_tokens=None, answer_tokens=None) for t in found.tasks]
    hidden = dataclasses.replace(found, tasks=(unknown[0], *found.tasks[1:]))
    _, whole = stages(run, found)
    _, rest = stages(run, hidden)
    lost = sum(unknown[0].task in arm.tasks for arm in run.arms if arm.variant.kind != "sft")
    assert len(whole["cells"].pieces) - len(rest["cells"].pieces) == lost + 1
    nothing = dataclasses.replace(found, tasks=tuple(unknown))
    assert model_cost(run, nothing, MODEL, Needs(1, 1)) is None
    assert model_cost(run, found, "organisation/unknown", Needs(1, 1)) is None


def test_a_smoke_test_limits_thinking(found):
    long, short = (stages(planned(), found, THINKS, limit=n)[0] for n in (None, 8))
    assert short.work < long.work


def test_measured_figures_are_those_of_the_docs():
    text = (builtin_folder().parent / "docs" / "performance.md").read_text(encoding="utf-8")
    for words in (
        "780 TFLOP/s in plain products, 2.5 TB/s",
        "| options of several tokens | 159 | 19.9 | 8.0 (7.8 to 9.6) | 1.32 | 18.1 |",
        "| 64 | 1,580 |",
        "| Qwen3-30B-A3B | 29.7 | 17.4 | 14.1 |",
        "| OLMoE-1B-7B | 149 | 52.5 | 7.6 | 13.8 GB |",
    ):
        assert words in text
    assert re.search(r"\| prefill of 2,048 tokens, 31 ms \|.*\| 5\.4 \|", text)

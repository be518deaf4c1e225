"""What a plan would take, without running it."""

import json

import pytest

from dsmoe_eval.cli import main
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_model_card
from dsmoe_eval.runs import estimate as dry_run
from dsmoe_eval.runs.estimate import PEAK_FLOPS, estimate
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.run import plan_table
from dsmoe_eval.runs.stages import tuning_answers
from dsmoe_eval.stats import midp_power


@pytest.fixture(scope="module")
def lab():
    return estimate("lab", ["olmoe-1b-7b", "lab-poly"])


def test_it_counts_what_the_run_counts(lab, tmp_path):
    job = prepare("lab", tmp_path / "run", RunOptions(device="cpu"))
    said = dict(zip(*[list(column.cells) for column in plan_table(job).columns], strict=True))
    assert str(said["test"]) == f"{lab.cells} cells, {lab.answers:,} answers"
    for task in lab.tasks:
        assert task.from_data
        assert task.test == len(job.test[task.task].items)
        assert task.tuning == len(job.tuning[task.task].items)
    assert (lab.engine, lab.devices) == (job.engine.name, 1)
    settings = sum(len(arm.grid) for arm in job.arms if arm.target == "math")
    per_target = {arm.target: sum(len(job.tuning[n].items) for n in arm.tasks) for arm in job.arms}
    base = sum(len(job.tuning[name].items) for name in job.base_tasks)
    assert lab.tuning_answers == base + settings * sum(per_target.values())
    assert tuning_answers(job) == lab.tuning_answers


def test_models_cost_by_their_cards(lab):
    olmoe, own = lab.models
    assert own.petaflop is None
    flop = 2 * load_model_card("olmoe-1b-7b").parameters.active * lab.tokens
    assert olmoe.petaflop == pytest.approx(flop / 1e15)
    assert olmoe.hours == pytest.approx(flop / PEAK_FLOPS / 3600)


def test_the_smallest_effect_is_found_with_its_power(lab):
    task = next(task for task in lab.tasks if task.domain == "law")
    power = midp_power(task.test, task.smallest[0], 0.1, alpha=0.05 / lab.claims)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_without_data_the_suite_s_figures_stand(monkeypatch):
    def refuse(*_):
        raise UserError("no network")

    monkeypatch.setattr(dry_run, "load_tasks", refuse)
    found = estimate("paper", limit=100)
    by_name = {task.task: task for task in found.tasks}
    assert by_name["aime24"].test == 30
    assert by_name["aime24"].tuning == 0
    assert by_name["mmlu_pro_math"].test == 100
    assert by_name["gpqa_diamond_cot_zeroshot"].note == "no network"
    assert not found.complete
    assert len(found.models) == 10
    assert by_name["aime24"].samples == 8


def test_a_model_that_thinks_takes_more_tokens(monkeypatch):
    found = estimate("lab", ["olmoe-1b-7b", "gpt-oss-20b"])
    generated = sum(t.test for t in found.tasks if t.answer_tokens)
    plain, thinking = found.models
    assert plain.tokens == found.tokens
    assert generated
    (sums,) = (task for task in found.tasks if task.answer_tokens)
    more = (thinking.tokens - plain.tokens) / (32768 - sums.answer_tokens)
    assert more == int(more) > sums.test * (len(found.variants) - 1) * len(found.targets)


def test_few_items_are_called_what_they_are(monkeypatch, capsys):
    monkeypatch.setattr(dry_run, "load_tasks", lambda *_: {})
    main(["run", "paper", "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert "aime24: 30 items answered 8 times are an anecdote, not a measurement" in said
    main(["run", "paper", "--dry-run", "--json"])
    assert json.loads(capsys.readouterr().out)["plan"] == "paper"


def test_json_is_for_the_dry_run(capsys):
    with pytest.raises(SystemExit):
        main(["run", "lab", "--json"])
    assert "--json goes with --dry-run" in capsys.readouterr().err

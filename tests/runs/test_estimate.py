"""What a plan would take, without running it."""

import dataclasses
import io
import json
import shutil

import pytest
import yaml
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from dsmoe_eval.cards import Splits
from dsmoe_eval.cli import main
from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import load_model
from dsmoe_eval.registry import find_card, load_model_card, load_suite
from dsmoe_eval.reports.estimate import estimate_tables
from dsmoe_eval.runs.cells import cell_identity
from dsmoe_eval.runs.estimate import PEAK_FLOPS, estimate
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.run import plan_table
from dsmoe_eval.runs.stages import tuning_answers
from dsmoe_eval.stats import midp_power
from dsmoe_eval.tasks import splits
from dsmoe_eval.tasks.identification import domain_texts
from dsmoe_eval.tasks.opening import UnreadableTaskError


@pytest.fixture(scope="module")
def lab():
    return estimate("lab", ["olmoe-1b-7b", "lab-poly", "gpt-oss-20b"])


def test_it_counts_what_the_run_counts(lab, tmp_path):
    job = prepare("lab", tmp_path / "run", RunOptions(device="cpu"))
    said = dict(zip(*[list(column.cells) for column in plan_table(job).columns], strict=True))
    assert str(said["test"]) == f"{lab.cells} cells, {lab.answers:,} answers"
    for task in lab.tasks:
        assert task.from_data
        assert task.test == len(job.test[task.task].items)
        assert task.tuning == len(job.tuning[task.task].items)
    assert (lab.engine, lab.devices) == (job.engine.name, 1)
    questions = [one for texts in domain_texts(job.identification.tasks).values() for one in texts]
    assert lab.identification_texts == len(questions) > 0
    assert 4 * lab.identification_tokens == pytest.approx(sum(map(len, questions)), rel=0.1)
    settings = sum(len(arm.grid) for arm in job.arms if arm.target == "math")
    per_target = {arm.target: sum(len(job.tuning[n].items) for n in arm.tasks) for arm in job.arms}
    base = sum(len(job.tuning[name].items) for name in job.base_tasks)
    assert lab.tuning_answers == base + settings * sum(per_target.values())
    assert tuning_answers(job) == lab.tuning_answers


def test_the_items_of_influence_are_shown(lab):
    assert (lab.influence_items, lab.influence_tokens) == (0, 0)
    shown = io.StringIO()
    Console(file=shown, width=120).print(
        estimate_tables(dataclasses.replace(lab, influence_items=1234, influence_tokens=5600))
    )
    assert "1,234 items with their answers, 5.6 k tokens" in shown.getvalue()


def test_models_cost_by_their_cards(lab):
    olmoe, own, _ = lab.models
    assert own.weights_gib == pytest.approx(5857704 / 2**30)  # as the file is
    flop = 2 * load_model_card("olmoe-1b-7b").parameters.active * lab.tokens
    assert olmoe.petaflop == pytest.approx(flop / 1e15)
    assert olmoe.hours == pytest.approx(flop / PEAK_FLOPS / 3600)


def test_the_smallest_effect_is_found_with_its_power(lab):
    task = next(task for task in lab.tasks if task.domain == "law")
    power = midp_power(task.test, task.smallest[0], 0.1, alpha=0.05 / lab.claims)
    assert power == pytest.approx(0.8, abs=1e-3)


def unreadable(*_):
    raise UnreadableTaskError("no network")


def test_without_data_the_suite_s_figures_stand(monkeypatch):
    monkeypatch.setattr(splits, "load_tasks", unreadable)
    found = estimate("paper", limit=100)
    by_name = {task.task: task for task in found.tasks}
    assert by_name["aime24"].test == 30
    assert by_name["aime24"].tuning == 0
    assert by_name["mmlu_pro_math"].test == 100
    assert by_name["gpqa_diamond_cot_zeroshot"].note == "no network"
    assert not found.complete
    assert len(found.models) == 10
    assert by_name["aime24"].samples == 8


def test_a_model_that_thinks_takes_more_tokens(lab):
    plain, _, thinking = lab.models
    assert plain.tokens == lab.tokens
    (sums,) = (task for task in lab.tasks if task.answer_tokens)
    assert sums.test
    more = (thinking.tokens - plain.tokens) / (32768 - sums.answer_tokens)
    assert more == int(more) > sums.test * (len(lab.variants) - 1) * len(lab.targets)


def test_hours_of_generation_are_stated(lab):
    plain, _, thinking = lab.models
    assert 0 < plain.generated < 500 * 3600 < thinking.generated < thinking.tokens
    said = {
        engine: shown(dataclasses.replace(lab, engine=engine))
        for engine in ("vllm", "transformers")
    }
    line = f"gpt-oss-20b: up to {thinking.generated / 1e6:,.1f} M tokens are generated, "
    line += f"{thinking.generated / 500 / 3600:,.0f} hours in transformers"
    assert line in said["transformers"]
    assert "olmoe-1b-7b: up to" not in said["transformers"]
    assert "are generated" not in said["vllm"]
    assert "vllm; learner: transformers" in said["vllm"]
    assert "learner" not in said["transformers"]


def shown(found):
    console = Console(record=True, width=300, file=io.StringIO())
    console.print(estimate_tables(found))
    return console.export_text()


def test_few_items_are_called_what_they_are(monkeypatch, capsys):
    monkeypatch.setattr(splits, "load_tasks", unreadable)
    main(["run", "paper", "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert "fewer than 100 items are an anecdote, not a measurement" in said
    assert "aime24 (30 answered 8 times)" in said
    main(["run", "paper", "--dry-run", "--json"])
    assert json.loads(capsys.readouterr().out)["plan"] == "paper"


def test_json_is_for_the_dry_run(capsys):
    with pytest.raises(SystemExit):
        main(["run", "lab", "--json"])
    assert "--json goes with --dry-run" in capsys.readouterr().err


@pytest.fixture
def small_plan(tmp_path):
    """Write a plan for one target, whose task has a tuning and a test split alone."""

    def write(**changes):
        suite = yaml.safe_load(find_card("suites", "lab").read_text())
        suite["tasks_dir"] = str(load_suite("lab").tasks_dir)
        suite["tasks"] = [t for t in suite["tasks"] if t["domain"] in ("math", "arithmetic")]
        suite["tasks"][0]["splits"] = {"tuning": "tuning", "test": "test"}
        suite |= {"name": "small"} | changes.pop("suite", {})
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(suite))
        plan = yaml.safe_load(find_card("plans", "lab").read_text())
        plan |= {"suite": "small.yaml", "variants": ["base", "contrast"], "targets": None} | changes
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
        return str(tmp_path / "plan.yaml")

    return write


def test_case_19_tasks_without_an_identification_split_count_as_in_a_run(small_plan, tmp_path):
    plan = small_plan()
    found = estimate(plan, limit=7)
    job = prepare(plan, tmp_path / "run", RunOptions(limit=7, device="cpu"))
    assert [(t.task, t.test, t.tuning, t.identification) for t in found.tasks] == [
        ("lab_math_unnamed", 7, 7, 0), ("lab_math_named", 0, 0, 7), ("lab_arithmetic", 7, 7, 7)
    ]  # fmt: skip
    for stage in ("test", "tuning", "identification"):
        counts = {t.task: getattr(t, stage) for t in found.tasks if getattr(t, stage)}
        tasks = job.identification.tasks if stage == "identification" else getattr(job, stage)
        assert counts == {name: len(one.items) for name, one in tasks.items()}
    assert not any(task.note for task in found.tasks)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "./nothing"}, "no such folder"),
        ({"suite": {"splits": dict.fromkeys(Splits.model_fields, "none")}}, "has no split 'none'"),
        ({"suite": {"splits": dict.fromkeys(Splits.model_fields, "test")}}, "leakage: "),
    ],
)
def test_case_19_what_a_run_refuses_a_dry_run_refuses_likewise(
    small_plan, tmp_path, changes, words
):
    plan = small_plan(**changes)
    with pytest.raises(UserError, match=words) as dry:
        estimate(plan)
    with pytest.raises(UserError) as real:
        prepare(plan, tmp_path / "run", RunOptions(device="cpu"))
    assert str(dry.value) == str(real.value)


def test_case_19_a_dense_model_is_refused_before_its_weights_are_read(small_plan, tmp_path):
    folder = tmp_path / "dense"
    config = LlamaConfig(
        vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in EMBEDDED_MODELS["lab-poly"].glob("tokenizer*"):
        shutil.copy(path, folder)
    with pytest.raises(UserError, match="LlamaForCausalLM has no router") as real:
        load_model(str(folder), "cpu")
    (folder / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(UserError) as dry:
        estimate(small_plan(model=str(folder)), limit=2)
    assert str(dry.value) == str(real.value)


def test_case_19_a_local_folder_has_a_size(small_plan, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    model = load_model("lab-poly", "cpu").model
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    total = sum(p.numel() for p in model.parameters())
    config = model.config
    share = config.num_experts_per_tok / config.num_experts
    (found,) = estimate(small_plan(model=str(folder)), limit=2).models
    assert found.petaflop * 1e15 == 2 * (total - experts * (1 - share)) * found.tokens
    assert found.weights_gib * 2**30 == (folder / "model.safetensors").stat().st_size


def test_case_04_the_models_decoding_is_named_and_part_of_a_cell(tmp_path):
    model = shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / "model")
    file, seen = model / "generation_config.json", []
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"variants": ["base", "contrast"], "targets": ["math"], "model": str(model)}
    for number, (mode, penalty, ends) in enumerate(
        (("task", 1.0, 1), ("task", 1.1, 1), ("model", 1.1, 1), ("task", 1.1, [1, 5]))
    ):
        file.write_text(json.dumps({"repetition_penalty": penalty, "eos_token_id": ends}))
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | {"decoding": mode}))
        options = RunOptions(device="cpu", limit=4)
        job = prepare(str(tmp_path / "plan.yaml"), tmp_path / f"run{number}", options)
        said = dict(zip(*[list(one.cells) for one in plan_table(job).columns], strict=True))
        seen.append((str(said["decoding"]), cell_identity(job, None, "lab_arithmetic").id))
    (plain, a), (ignored, b), (used, c), (_, d) = seen
    assert plain == "as the tasks say"
    assert ignored.startswith("as the tasks say; ignored in generation_config.json: repetition_pen")
    assert used.endswith("by generation_config.json: repetition_penalty 1.1")
    assert (a == b, len({b, c, d})) == (True, 3)

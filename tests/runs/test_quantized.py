"""A plan with arms on a quantized model, and one whose experts no rounding reaches."""

import json
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from dsmoe_eval.cli.main import main
from dsmoe_eval.models import load_model, quantizing, write_quantized
from dsmoe_eval.registry import find_card
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.steering import Profile, steer
from dsmoe_eval.variants.sft import adapter

ENDINGS = ("", "+matched", "+sham")


def ran(folder, *names, **changes):
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"variants": ["base", *names], "targets": ["math"], "sft": None, "controls": "none"}
    plan |= {"tuning": {"expert_counts": [16], "strengths": {"bias": [1.7]}}} | changes
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["run", str(folder / "plan.yaml"), "--out", str(folder / "run"), "--device", "cpu"]
    return CliRunner().invoke(main, [*command, "--limit", "12"])


LEARNED = {
    "steps": 4, "batch_size": 8, "check_every": 2, "weights": [50.0], "learning_rate": 0.1
}  # fmt: skip


def samples(run, cell):
    return pd.read_parquet(run.folder.cell(cell) / "samples.parquet")


def same(one, other):
    pairs = zip(one.loglikelihoods, other.loglikelihoods, strict=True)
    return all((a == b).all() for a, b in pairs)


@pytest.mark.full
def test_the_same_profiles_steer_the_model_with_rounded_experts(tmp_path):
    both = [f"{arm}{ending}" for arm in ("contrast", "contrast-int4") for ending in ENDINGS]
    done = ran(tmp_path, *both, "prompt", "prompt-int4", "base-int8", foretell=True)
    assert done.exit_code == 0, done.stderr
    run = read_finished(tmp_path / "run")
    arms = {name: arm for (name, _), arm in run.arms.items()}
    for ending in ENDINGS:
        plain, rounded = arms[f"contrast{ending}"], arms[f"contrast-int4{ending}"]
        assert plain.profile == rounded.profile
        assert plain.settings == rounded.settings
        assert plain.over_quantized is None
        base, own = arms["base-int4"].target_result, rounded.target_result
        assert rounded.over_quantized.delta == pytest.approx(own.score_b - base.score_b)
        assert rounded.over_quantized.n == own.n
    sham, model = arms["contrast-int4+sham"], arms["base-int4"]
    for task, cell in sham.cells.items():  # of the model that it steers, bit by bit
        assert same(samples(run, cell), samples(run, model.cells[task]))
    assert run.result.equals_model(sham)
    assert not sham.equal_to_base or model.equal_to_base
    assert arms["prompt-int4"].over_prompt is arms["base-int4"].over_prompt is None
    assert arms["contrast-int4"].over_prompt.score_a == arms["prompt-int4"].target_result.score_b
    for name, arm in arms.items():
        shares = {"base-int8": (1, None), "base-int4": (1, None), "contrast-int4": (None, 1)}
        figure, share = shares.get(name, (None, None))
        assert figure is None or (arm.acted.kind, arm.acted.figure) == ("bytes", figure)
        assert share is None or arm.acted.quantized == share
    forms = {row.form: row.agreement for row in run.result.quantized}
    assert 0.5 < forms["int4"].shared < forms["int8"].shared <= 1
    assert forms["int4"].shared_by_layer[0] == 1  # before it there are no experts
    known = {arm.variant: arm.change(arm.changes[0].task, "gold_logprob").first_order
             for arm in run.result.foretold.arms}  # fmt: skip
    assert known["contrast"] is not None
    assert known["contrast+sham"] == 0
    assert known["contrast-int4"] is known["contrast-int4+sham"] is None  # rounding has no slope
    check_checkpoint(run, model, tmp_path)
    said = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "The int4 model selects " in said
    assert "Beyond the int4 model without it, contrast-int4 improves " in said
    again = ran(tmp_path, *both, "prompt", "prompt-int4", "base-int8", foretell=True)
    assert again.exit_code == 0, again.stderr


def check_checkpoint(run, model, folder):
    """The answers of `base-int4` are those of a checkpoint with rounded experts, bit by bit."""
    write_quantized("lab-poly", "int4", folder / "int4")
    (folder / "other").mkdir()
    done = ran(folder / "other", "contrast", model=str(folder / "int4"))
    assert done.exit_code == 0, done.stderr
    other = read_finished(folder / "other" / "run")
    for row in other.result.base:
        assert same(samples(run, model.cells[row.task]), samples(other, row.cell))


@pytest.mark.full
def test_experts_that_stay_unquantized_fail_the_arms_and_the_run_goes_on(tmp_path, monkeypatch):
    """As libraries do that leave fused experts as they are, without a word."""
    monkeypatch.setattr(quantizing, "round_experts", lambda *_: None)
    done = ran(tmp_path, "contrast", "contrast-int4", "contrast-int4+sham")
    assert done.exit_code == 5, done.stderr
    failed = ", ".join(
        f"{name} on math" for name in ("contrast-int4", "contrast-int4+sham", "base-int4")
    )
    assert done.stderr.splitlines()[-1].endswith(f"3 arms did not act: {failed}")
    first = (tmp_path / "run" / "report" / "report.md").read_text().splitlines()[2]
    assert first.startswith("> **FAILED. 3 of 4 arms did not act: contrast-int4 on math, ")
    arms = json.loads((tmp_path / "run" / "comparisons.json").read_text())["arms"]
    acted = {arm["variant"]: arm["acted"] for arm in arms}
    assert acted["contrast"]["verdict"] == "acted"
    assert acted["contrast-int4"]["quantized"] == acted["base-int4"]["figure"] == 0


@torch.no_grad()
def log_likelihoods(loaded, question, options):
    """Those of options behind a question, by transformers alone."""
    start = len(loaded.tokenizer.encode(question))
    found = []
    for option in options:
        ids = torch.tensor([loaded.tokenizer.encode(f"{question} {option}")])
        logs = loaded.model(ids).logits[0, start - 1 : -1].double().log_softmax(-1)
        found.append(float(logs.gather(1, ids[0, start:, None]).sum()))
    return found


@pytest.mark.full
def test_a_learned_profile_steers_the_model_with_rounded_experts(tmp_path):
    both = ["learned-profile", "learned-profile-int4"]
    changes = {"controls": "full", "tuning": None, "learned": LEARNED}
    done = ran(tmp_path, *both, **changes)
    assert done.exit_code == 0, done.stderr
    run = read_finished(tmp_path / "run")
    arms = {name: arm for (name, _), arm in run.arms.items()}
    endings = ("", "+shuffled", "+wrong", "+pooled", "+sham")
    assert set(arms) == {"base-int4", *(one + ending for one in both for ending in endings)}
    for ending in endings:  # what was learned once steers both models
        assert arms[both[0] + ending].profile == arms[both[1] + ending].profile
        assert arms[both[0] + ending].settings == arms[both[1] + ending].settings
    model, arm = arms["base-int4"], arms["learned-profile-int4"]
    for name, control in [("over_placebo", "shuffled"), ("specificity", "wrong"),
                          ("over_pooled", "pooled")]:  # fmt: skip
        other = arms[f"learned-profile-int4+{control}"].target_result.score_b
        assert getattr(arm, name).score_a == other
    assert arm.over_quantized.score_a == model.target_result.score_b
    assert arm.over_quantized.score_b == arm.target_result.score_b
    sham = arms["learned-profile-int4+sham"]
    assert run.result.equals_model(sham)
    for task, cell in sham.cells.items():
        assert same(samples(run, cell), samples(run, model.cells[task]))
    assert (arm.acted.verdict, arm.acted.quantized) == ("acted", 1)
    write_quantized("lab-poly", "int4", tmp_path / "int4")
    loaded = load_model(str(tmp_path / "int4"), "cpu")
    content = run.folder.read(run.folder.profile(arm.variant, arm.target, arm.profile))
    for one, steering in ((model, None), (arm, steer(loaded.model, Profile.from_json(content)))):
        rows = samples(run, one.cells["lab_math_unnamed"])
        with steering or nullcontext():
            for row in rows.itertuples():
                expected = log_likelihoods(loaded, row.question, row.options)
                assert row.loglikelihoods == pytest.approx(expected, abs=2e-5)
    again = ran(tmp_path, *both, **changes)
    assert again.exit_code == 0, again.stderr


@pytest.mark.full
def test_adapters_are_trained_on_the_rounded_model_and_answer_on_it(tmp_path):
    """QLoRA up to its kernels: peft on a checkpoint with rounded experts is the witness."""
    sft = {"rank": 4, "lora_alpha": 8, "learning_rate": 0.01, "epochs": 1, "batch_size": 4}
    changes = {"tuning": None, "sft": sft}
    done = ran(tmp_path, "sft-lora", "sft-lora-int4", **changes)
    assert done.exit_code == 0, done.stderr
    run = read_finished(tmp_path / "run")
    arms = {name: arm for (name, _), arm in run.arms.items()}
    assert set(arms) == {"sft-lora", "sft-lora-int4", "base-int4"}
    plain, arm, model = (arms[name] for name in ("sft-lora", "sft-lora-int4", "base-int4"))
    assert plain.settings.weights != arm.settings.weights
    assert plain.over_lora is plain.over_quantized is None
    assert (arm.acted.verdict, arm.acted.kind, arm.acted.figure) == ("acted", "weights", 1)
    assert arm.acted.quantized == 1
    assert arm.over_quantized.score_a == model.target_result.score_b
    assert arm.over_lora.score_a == plain.target_result.score_b
    assert arm.over_lora.score_b == arm.over_quantized.score_b == arm.target_result.score_b
    write_quantized("lab-poly", "int4", tmp_path / "int4")
    loaded = load_model(str(tmp_path / "int4"), "cpu")
    folder = run.folder.adapter("sft-lora-int4", "math")
    rows = samples(run, arm.cells["lab_math_unnamed"])
    with adapter(loaded.model, folder):
        for row in rows.itertuples():
            expected = log_likelihoods(loaded, row.question, row.options)
            assert row.loglikelihoods == pytest.approx(expected, abs=2e-5)
    (tmp_path / "other").mkdir()  # the same training, of the rounded checkpoint
    other = ran(tmp_path / "other", "sft-lora", model=str(tmp_path / "int4"), **changes)
    assert other.exit_code == 0, other.stderr
    again = read_finished(tmp_path / "other" / "run")
    weights = [
        load_file(found.adapter(name, "math") / "adapter_model.safetensors")
        for found, name in ((run.folder, "sft-lora-int4"), (again.folder, "sft-lora"))
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    said = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "Against the same training of the model as it is, sft-lora-int4 is " in said
    assert "beyond sft-lora" in said

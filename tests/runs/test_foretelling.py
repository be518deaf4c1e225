"""Foretold effects of a run on the lab model, before its test split, against other computations."""

import hashlib
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.cards import Identification
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import Form, get_method
from dsmoe_eval.files import seal
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.reports import render
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.recompute import recompute
from dsmoe_eval.runs import foretelling, run
from dsmoe_eval.runs.estimate import estimate
from dsmoe_eval.runs.identification import count_domains
from dsmoe_eval.runs.influence import influence_of
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.steering import Intervention, Profile
from dsmoe_eval.tasks.identification import identification_text
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.outcomes import outcome_values

RUN = sys.modules["dsmoe_eval.runs.run"]  # the function has hidden the name of its module
QUIET = Console(quiet=True)
LIMIT = 4
TARGET, OTHER = "lab_math_unnamed", "lab_law_named"
PLAN = {
    "name": "ahead", "description": "small", "model": "lab-poly", "suite": "lab",
    "targets": ["math"], "variants": ["base", "sham", "contrast", "dsmoe", "prompt"],
    "controls": "none", "margin": 0.02, "foretell": True,
    "tuning": {"expert_counts": [8], "strengths": {"bias": [0.02], "reweight": [4.0]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "ahead.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return str(path)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    """A run that was killed while it foretold, and goes on; it answers the test split last."""
    root, arms = tmp_path_factory.mktemp("runs") / "a", []

    def killed(*given):
        arms.append(given[2])
        if len(arms) == 20:
            raise KeyboardInterrupt
        return item_outcomes(*given)

    def last(job, arms, steps):
        assert job.folder.has(job.folder.foretold)
        assert not list(job.folder.root.glob("cells/*"))
        answer_tests(job, arms, steps)

    item_outcomes, answer_tests = foretelling.item_outcomes, RUN.answer_tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foretelling, "item_outcomes", killed)
        with pytest.raises(KeyboardInterrupt):
            run(plan, root, limit=LIMIT, device="cpu", console=QUIET)
        assert [path.stem for path in root.glob("foretelling/*")] == ["base", "math--sham"]
        patch.setattr(RUN, "answer_tests", last)
        run(plan, root, limit=LIMIT, device="cpu", console=QUIET)
    assert len(arms) == 20 + 7 * 3  # the arm that was begun answers its tasks again
    return RunFolder(root)


@pytest.fixture(scope="module")
def foretold(finished):
    return read_finished(finished.root).result.foretold


def test_all_arms_are_foretold_on_all_tasks(foretold):
    assert [arm.variant for arm in foretold.arms] == ["sham", "contrast", "dsmoe", "prompt"]
    for arm in foretold.arms:
        assert arm.without == ()
        rows = [(row.task, row.outcome) for row in arm.changes]
        assert rows[:2] == [(TARGET, "score"), (TARGET, "gold_logprob")]
        assert len(rows) == 2 * 6 + 1  # arithmetic generates its answers
        assert all(row.n == row.test_clusters == LIMIT for row in arm.changes)


@pytest.fixture(scope="module")
def another_way():
    """The engine and the suite loaded anew, with some items of the identification split."""
    engine, suite = load_engine("lab-poly", device="cpu"), load_suite("lab")
    cards = [suite.task(OTHER), suite.task(TARGET)]
    return engine, load_tasks(suite, cards, "identification", LIMIT)


def profile_of(finished, arm):
    content = finished.read(finished.profile(arm.variant, arm.target, arm.profile))
    return Profile.from_json(content)


def test_the_change_is_that_of_answers_to_the_identification_split(finished, foretold, another_way):
    engine, tasks = another_way
    arm, lm = foretold.arm("dsmoe", "math"), engine.language_model()
    for outcome in ("score", "gold_logprob"):
        before = outcome_values(lm, [*tasks.values()], outcome)
        with engine.steer(profile_of(finished, arm)):
            after = outcome_values(lm, [*tasks.values()], outcome)
        for name in tasks:
            expected = float(np.mean(after[name] - before[name]))
            assert arm.change(name, outcome).gain == pytest.approx(expected, abs=1e-5)


def test_first_order_is_influence_times_shift_and_there_is_none_of_weights(
    finished, foretold, another_way, tmp_path
):
    engine, tasks = another_way
    arm = foretold.arm("contrast", "math")
    assert foretold.form == "gradient"
    for name, task in tasks.items():
        seen = influence_of(engine, outcome_items(engine, {name: task}), Form(), tmp_path)
        effects = seen.influence.mean(0) * math.log(1.02)
        row = {layer: at for at, layer in enumerate(seen.layers)}
        experts = profile_of(finished, arm).experts
        expected = sum(float(effects[row[one.layer], one.expert]) for one in experts)
        assert arm.change(name, "gold_logprob").first_order == pytest.approx(expected, rel=1e-4)
        assert expected != 0
    assert arm.change(TARGET, "score").first_order is None
    assert foretold.arm("sham", "math").change(TARGET, "gold_logprob").first_order == 0
    for variant in ("dsmoe", "prompt"):
        assert foretold.arm(variant, "math").change(TARGET, "gold_logprob").first_order is None


def test_first_order_reads_the_pass_of_a_method_in_the_answers_format(tmp_path):
    """That on the model's own answers is read again too; that on other prompts is of no use."""
    engine, settings = load_engine("lab-poly", device="cpu"), Identification(phase="generated")
    found = identification_text("lab", 3, answered=True).tasks
    known = {n: found[n] for n in (TARGET, "lab_math_named", "lab_arithmetic")}
    wanted = IdentificationSpec.by([get_method("influence")], settings, {})
    counts = count_domains(engine, known, wanted, tmp_path, lambda _: None)
    shift = trial_profile(engine.identity, Intervention(kind="bias", strength=1.0), [0])
    arms = [arm_on(None, shift)]

    def slopes(chat_template, arms=arms):
        job = SimpleNamespace(
            roles=SimpleNamespace(are_two=False),
            lm=SimpleNamespace(uses_chat_template=False),
            learner=engine,
            folder=SimpleNamespace(observations=tmp_path),
            identification=SimpleNamespace(tasks=known),
            plan=SimpleNamespace(
                identification=settings.model_copy(update={"chat_template": chat_template})
            ),
        )
        return foretelling._slopes(job, counts, known, arms, QUIET)

    passes = set(tmp_path.rglob("*.safetensors"))
    exact = slopes(chat_template=False)
    assert exact.form == "exact"
    np.testing.assert_allclose(
        exact.by_task[TARGET], counts.influence[counts.domains.index("math"), 0], rtol=1e-6
    )
    assert set(tmp_path.rglob("*.safetensors")) == passes
    assert slopes(chat_template=True).form == "gradient"
    assert slopes(chat_template=False, arms=[arm_on("int4", shift)]) is None


def arm_on(form, profile):
    variant = SimpleNamespace(quantized=form)
    return SimpleNamespace(planned=SimpleNamespace(variant=variant), profile=profile)


def test_a_null_arm_is_foretold_to_change_nothing(foretold):
    rows = foretold.arm("sham", "math").changes
    assert {row.gain for row in rows} == {0.0}
    assert {row.ci95 for row in rows if row.outcome == "gold_logprob"} == {(0.0, 0.0)}


@pytest.mark.full
def test_the_result_is_computed_again_with_its_predictions(finished):
    assert recompute(finished) == read_finished(finished.root).result


@pytest.mark.full
def test_a_dry_run_counts_its_answers(plan):
    """Those of base and of four arms to seven tasks; a run counts them by another function."""
    found = estimate(plan, limit=LIMIT)
    assert found.foretelling_answers == 5 * 7 * LIMIT
    assert found.answers == found.foretelling_answers


@pytest.mark.full
def test_the_report_shows_what_was_foretold(finished, tmp_path):
    page = render(finished, tmp_path).read_text()
    for text in (page, (tmp_path / "index.html").read_text()):
        assert "Foretold and measured" in text
        assert "prediction intervals hold what was then measured" in text
    assert (tmp_path / "foretold.png").is_file()


def test_predictions_that_were_changed_after_the_test_are_refused(finished):
    before = {path: path.read_text() for path in (finished.foretold, finished.manifest)}
    content = json.loads(before[finished.foretold])
    content["arms"][1]["changes"][0]["gain"] = 0.5
    try:
        finished.foretold.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"foretold\.json: is not the file of"):
            read_finished(finished.root)
        hashes = {**finished.recorded(), "foretold.json": foretelling_digest(finished)}
        finished.manifest.write_text(json.dumps(seal(hashes)))
        with pytest.raises(UserError, match=r"foretold\.json: .* was changed after the test"):
            read_finished(finished.root)
    finally:
        for path, text in before.items():
            path.write_text(text)
    read_finished(finished.root)


def test_a_run_that_goes_on_notices_predictions_that_do_not_follow_from_answers(finished, plan):
    """Even with the file's hash in the manifest, before there is a result with the hash."""
    files = (finished.foretold, finished.manifest, finished.comparisons)
    before = {path: path.read_text() for path in files}
    content = json.loads(before[finished.foretold])
    content["arms"][1]["changes"][0]["gain"] += 0.01
    try:
        finished.comparisons.unlink()
        finished.foretold.write_text(json.dumps(content))
        hashes = {**finished.recorded(), "foretold.json": foretelling_digest(finished)}
        finished.manifest.write_text(json.dumps(seal(hashes)))
        with pytest.raises(UserError, match=r"foretold\.json: does not follow from the answers"):
            run(plan, finished.root, limit=LIMIT, device="cpu", console=QUIET)
    finally:
        for path, text in before.items():
            path.write_text(text)


def foretelling_digest(folder):
    return hashlib.sha256(folder.foretold.read_bytes()).hexdigest()


def test_nothing_is_foretold_after_the_test(finished, plan):
    before = {path: path.read_text() for path in (finished.foretold, finished.manifest)}
    finished.foretold.unlink()
    try:
        with pytest.raises(UserError, match=r"foretold\.json: is missing, and arms have answered"):
            run(plan, finished.root, limit=LIMIT, device="cpu", console=QUIET)
    finally:
        for path, text in before.items():
            path.write_text(text)


def test_a_suite_without_such_items_is_refused():
    suite = load_suite("smol")
    job = SimpleNamespace(
        plan=SimpleNamespace(foretell=True, name="mine"),
        suite=suite,
        targets=("law",),
        identification=SimpleNamespace(tasks={}),
        base_tasks=("smol_law_passages",),
    )
    with pytest.raises(UserError, match=r"plan 'mine': foretell needs .* has none of law"):
        foretelling.check_foretelling(job)
    job.plan.foretell = False
    foretelling.check_foretelling(job)
    assert foretelling.foretelling_answers(job) == 0

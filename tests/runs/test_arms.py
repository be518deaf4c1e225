"""What follows from a plan before anything is loaded."""

import pytest
import yaml

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_plan, load_suite
from dsmoe_eval.runs.arms import plan_run
from dsmoe_eval.runs.estimate import estimate
from dsmoe_eval.variants import Settings


@pytest.fixture(scope="module")
def lab():
    return plan_run(*load_plan("lab"))


def test_every_variant_but_base_for_every_target(lab):
    assert len(lab.arms) == 7 * 4
    assert [arm.target for arm in lab.arms[::7]] == list(lab.targets)
    assert [arm.variant.name for arm in lab.arms[:7]] == list(lab.plan.variants[1:])


def test_an_arm_answers_its_target_first_and_then_all_other_domains(lab):
    suite = load_suite("lab")
    for arm in lab.arms:
        first, *others = arm.tasks
        assert suite.task(first).domain == arm.target
        assert {suite.task(name).domain for name in others} == {
            task.domain for task in suite.tasks
        } - {arm.target}
    assert lab.base_tasks == tuple(task.name for task in suite.tasks)


def test_controls_point_to_the_arm_whose_settings_they_take(lab):
    for arm in lab.arms:
        if arm.variant.name in ("sham", "random", "wrong-domain"):
            assert (arm.tuned.variant.name, arm.tuned.target) == ("contrast", arm.target)
            assert arm.grid == ()
        else:
            assert arm.tuned is arm


def test_only_a_wrong_domain_control_takes_another_domains_experts(lab):
    after = dict(zip(lab.targets, (*lab.targets[1:], lab.targets[0]), strict=True))
    for arm in lab.arms:
        wrong = arm.variant.name == "wrong-domain"
        assert arm.domain == (after[arm.target] if wrong else arm.target)


def test_the_grid_is_every_size_with_every_strength(lab):
    by_name = {arm.variant.name: arm for arm in lab.arms if arm.target == "math"}
    assert by_name["sft-lora"].grid == ()
    assert by_name["dsmoe"].grid == tuple(
        Settings(size, strength) for size in (8, 16, 24) for strength in (1.0, 4.0, 19.0)
    )


MINE = {"name": "mine", "summary": "s", "kind": "steered"}
MINE |= {"method": "frequency", "intervention": "bias"}
HALVED = MINE | {"name": "half-mine", "expert_source": "random_matched", "control_of": "mine"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """We are where the user's folders are."""
    monkeypatch.chdir(tmp_path)


def write(folder, *variants, **changes):
    (folder / "variants").mkdir()
    for variant in variants:
        path = folder / "variants" / f"{variant['name']}.yaml"
        path.write_text(yaml.safe_dump(variant))
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan["variants"] = ["base", *(variant["name"] for variant in variants)]
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan | changes))
    return folder / "plan.yaml"


def test_a_plan_takes_a_users_own_variants(tmp_path):
    path = write(tmp_path, HALVED, MINE, targets=["law"], suite="lab")
    with pytest.raises(UserError, match="law is no target"):
        plan_run(*load_plan(str(path)))
    plan, _ = load_plan(str(path))
    control, arm = plan_run(plan.model_copy(update={"targets": ("math",)}), path).arms
    assert control.control_of == arm
    assert len(arm.grid) == 9


def test_the_estimate_knows_a_users_own_variants(tmp_path):
    path = write(tmp_path, MINE, targets=["math"])
    assert estimate(str(path), limit=2).variants == ("base", "mine")


def test_what_results_could_not_be_read_of_is_refused_before_it_runs(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    path = write(tmp_path / "project", MINE, targets=["math"])
    with pytest.raises(UserError, match=r"mine.yaml: results tell .*; start it in .*project, with"):
        plan_run(*load_plan(str(path)))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "mine.yaml").write_text(yaml.safe_dump(MINE | {"summary": "other"}))
    with pytest.raises(UserError, match="is another variant of the same name"):
        plan_run(*load_plan(str(path)))
    (tmp_path / "project" / "plans").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "plans")
    assert plan_run(*load_plan(str(path))).variants[1].name == "mine"


def test_a_control_of_a_control_is_refused(tmp_path):
    path = write(tmp_path, MINE, HALVED, HALVED | {"name": "third", "control_of": "half-mine"})
    with pytest.raises(UserError, match="'third' needs 'half-mine', the arm that it controls"):
        plan_run(*load_plan(str(path)))


def quantized(tmp_path, *names, **changes):
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"variants": ["base", *names], "targets": ["math"], "controls": "none"} | changes
    (tmp_path / "quantized.yaml").write_text(yaml.safe_dump(plan))
    return plan_run(*load_plan(str(tmp_path / "quantized.yaml")))


def test_an_arm_on_a_quantized_model_takes_the_settings_of_the_arm_without(tmp_path):
    named = ["contrast-int4", "contrast-int4+matched", "contrast-int4+sham", "contrast"]
    planned = quantized(tmp_path, *named)
    arms = {arm.variant.name: arm for arm in planned.arms}
    assert list(arms) == [*named, "base-int4"]  # the model that they are compared with
    for name in named[:3]:
        assert (arms[name].tuned, arms[name].grid) == (arms["contrast"], ())
    assert arms["contrast"].grid
    assert arms["base-int4"].tuned is arms["base-int4"]


def test_alone_it_is_tuned_itself_and_has_its_controls(tmp_path):
    planned = quantized(tmp_path, "base-fp8", "contrast-fp8", controls="full", placebo_draws=2)
    arms = {arm.variant.name: arm for arm in planned.arms}
    endings = ("matched", "matched-2", "wrong", "sham")
    controls = [f"contrast-fp8+{ending}" for ending in endings]
    assert list(arms) == ["base-fp8", "contrast-fp8", *controls]
    assert arms["contrast-fp8"].grid
    assert {arms[name].tuned for name in controls} == {arms["contrast-fp8"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"engine": "vllm", "learner": "vllm"}, "needs learner: transformers, since the learner ro"),
     ({"sites": "neurons"}, "needs sites: experts, since experts are what is quantized")],
)  # fmt: skip
def test_what_cannot_be_rounded_is_refused_by_name(tmp_path, changes, reason):
    with pytest.raises(UserError, match=f"variant 'base-int8' {reason}"):
        quantized(tmp_path, "base-int8", **changes)

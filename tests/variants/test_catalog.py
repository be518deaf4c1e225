"""The variants that there are."""

import re

import pytest

from dsmoe_eval.cards import Variant
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import all_methods
from dsmoe_eval.registry import find_card
from dsmoe_eval.variants import (
    all_variants,
    controls_for,
    get_variant,
    own_file,
    unquantized_arm,
    with_controls,
)


def test_every_steered_variant_names_a_method_and_an_intervention_that_exist():
    for variant in all_variants().values():
        if variant.kind == "steered":
            assert variant.method in all_methods()
            assert variant.intervention is not None


def test_a_control_shares_method_and_intervention_with_what_it_controls():
    controls = [variant for variant in all_variants().values() if variant.control_of]
    assert {variant.name for variant in controls} == {
        "sham", "random", "wrong-domain", "suppress", "suppress-random"
    }  # fmt: skip
    for control in controls:
        arm = get_variant(control.control_of)
        assert arm.is_tuned
        assert not control.is_tuned
        assert control.method == arm.method
        assert control.intervention in (arm.intervention, "mask")


def test_an_unknown_variant_lists_what_there_is():
    with pytest.raises(UserError, match=r"no variant 'dsmo'; there are: base, contrast"):
        get_variant("dsmo")


def test_any_method_goes_with_any_intervention():
    arm = get_variant("esft-gate+amplify")
    assert (arm.method, arm.intervention, arm.expert_source) == ("esft-gate", "amplify", "method")
    assert arm.is_tuned
    control = get_variant("esft-gate+amplify+matched")
    assert control.control_of == arm.name
    assert control.expert_source == "random_matched"
    assert not control.is_tuned
    for name in ("esft-gate", "esft-gate+", "esft+amplify", "esft-gate+amplify+own", "+bias"):
        with pytest.raises(UserError, match="or METHOD\\+INTERVENTION"):
            get_variant(name)


def test_a_pruned_model_keeps_what_its_name_says_and_has_controls():
    arm = get_variant("reap+prune-12")
    assert (arm.method, arm.intervention, arm.keep) == ("reap", "prune", 12)
    assert (arm.is_tuned, arm.takes_controls, arm.must_act) == (False, True, False)
    endings = ["", "+matched", "+matched-2", "+wrong", "+sham"]
    variants = with_controls([get_variant("base"), arm], "full", 2)
    assert [one.name for one in variants[1:]] == [f"{arm.name}{ending}" for ending in endings]
    other = get_variant("reap+prune-6+matched")
    matched = controls_for(arm, "random_matched", [*variants, other])
    assert [one.name for one in matched] == ["reap+prune-12+matched", "reap+prune-12+matched-2"]
    assert matched[0].summary.endswith("each layer keeps 12 random experts")
    for name in ("reap+prune", "reap+prune-0", "reap+prune-x", "nobody+prune-3"):
        with pytest.raises(UserError, match="or METHOD\\+prune-K"):
            get_variant(name)


def test_a_control_does_the_same_with_other_experts():
    among = all_variants().values()
    arm = get_variant("contrast")

    def names(arm, source, among):
        return [one.name for one in controls_for(arm, source, among)]

    assert names(arm, "random_matched", among) == ["random"]  # not suppress-random, which masks
    assert names(get_variant("suppress"), "random_matched", among) == ["suppress-random"]
    assert names(arm, "other_domain", among) == ["wrong-domain"]
    assert names(arm, "random_matched", [arm]) == []
    assert names(get_variant("random"), "random_matched", among) == []
    assert names(get_variant("dsmoe"), "random_matched", among) == []
    drawn = ["npmi+bias+matched-2", "npmi+bias+matched", "npmi+bias", "npmi+bias+wrong"]
    both = [get_variant(name) for name in drawn]
    assert names(both[2], "random_matched", both) == drawn[1::-1]  # draw by draw


@pytest.mark.parametrize(
    ("name", "source", "draw", "null"),
    [
        ("dsmoe+matched", "random_matched", 1, False),
        ("dsmoe+matched-3", "random_matched", 3, False),
        ("dsmoe+wrong", "other_domain", 1, False),
        ("dsmoe+sham", "method", 1, True),
        ("prompt+wrong", "other_domain", 1, False),
    ],
)
def test_every_arm_has_controls_by_name(name, source, draw, null):
    control, arm = get_variant(name), get_variant(name.partition("+")[0])
    assert (control.expert_source, control.draw, control.zero_strength) == (source, draw, null)
    assert control.control_of == arm.name
    assert (control.kind, control.method, control.intervention) == (
        arm.kind, arm.method, arm.intervention
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["dsmoe+matched-1", "dsmoe+matched-0", "dsmoe+matched-02", "random+matched", "sft-lora+sham",
     "dsmoe+matched+matched", "prompt+matched", "prompt+sham", "base+wrong", "nothing+matched"],
)  # fmt: skip
def test_what_is_no_arm_has_no_controls(name):
    with pytest.raises(UserError, match="no variant"):
        get_variant(name)


OWN = """\
name: mine
summary: the most used experts, multiplied
kind: steered
method: frequency
intervention: amplify
"""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A user's folders: `plans/p.yaml` and `variants/mine.yaml`; we are somewhere else."""
    (tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "else" / "where")
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "mine.yaml").write_text(OWN)
    return tmp_path


def test_a_users_own_variant_is_found_near_the_plan_and_where_we_are(own_folder, monkeypatch):
    plan = own_folder / "plans" / "p.yaml"
    found = get_variant("mine", plan)
    assert (found.method, found.intervention, found.is_tuned) == ("frequency", "amplify", True)
    assert get_variant("contrast", plan) == get_variant("contrast")
    assert own_file("mine", plan) == own_folder / "variants" / "mine.yaml"
    assert own_file("contrast", plan) is own_file("npmi+bias", plan) is None
    with pytest.raises(UserError, match=r"no variant 'mine'; there are: .*in a folder variants"):
        get_variant("mine")
    monkeypatch.chdir(own_folder)
    assert get_variant("mine") == get_variant("variants/mine.yaml") == found


def test_the_built_in_variants_in_a_folder_of_the_users_are_the_built_in_ones(own_folder):
    """As in a checkout of the repository, beside an installed package."""
    text = find_card("variants", "random").read_text()
    (own_folder / "variants" / "random.yaml").write_text(text)
    assert get_variant("random", own_folder / "p.yaml") == get_variant("random")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("mine", ("name: mine", "name: other"), "its name is 'other'; name file and variant alike"),
        ("contrast", ("name: mine", "name: contrast"), "'contrast' is a variant of dsmoe-eval's"),
        ("npmi+bias", ("name: mine", "name: npmi+bias"), "is a variant of dsmoe-eval's"),
        ("contrast+matched", ("mine", "contrast+matched"), "is a variant of dsmoe-eval's"),
        ("mine", ("frequency", "magic"), "no method 'magic'; there are: dsmoe,"),
        ("mine", ("method: frequency\n", ""), "needs `method` and `intervention`"),
        ("mine", ("kind: steered", "kind: sft"), "sft takes no method"),
        ("mine", ("kind: steered", "kind: steered\nnull: true"), "have `zero_strength`"),
    ],
)
def test_a_wrong_variant_is_told_by_its_file(own_folder, file, change, words):
    path = own_folder / "variants" / f"{file}.yaml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(UserError, match=words) as error:
        get_variant(file, own_folder / "p.yaml")
    assert str(path) in str(error.value)


def test_a_learned_profile_has_its_controls_and_no_matched_experts():
    arm = get_variant("learned-profile")
    names = {
        level: [one.name.partition("+")[2] for one in with_controls([arm], level, 3)[1:]]
        for level in ("none", "placebo", "full")
    }
    full = ["shuffled", "wrong", "pooled", "sham"]
    assert names == {"none": [], "placebo": ["shuffled"], "full": full}
    every = with_controls([arm], "full", 3)
    (placebo,) = controls_for(arm, "random_matched", every)
    assert placebo.name == "learned-profile+shuffled"
    for name in ("learned-profile+matched", "contrast+shuffled", "contrast+pooled"):
        with pytest.raises(UserError, match="no variant"):
            get_variant(name)


def test_a_fine_tuned_variant_has_budgets_and_one_that_trains_experts_has_controls():
    short = get_variant("sft-esft-x3")
    assert (short.epochs, short.recipe, short.method) == (3, "esft", "esft-gate")
    assert get_variant("sft-lora-x1").summary == "sft-lora with 1 epoch"
    control = get_variant("sft-esft-x3+matched-2")
    assert (control.control_of, control.epochs, control.draw) == ("sft-esft-x3", 3, 2)
    assert control.expert_source == "random_matched"
    assert not control.is_tuned
    for name in ("sft-lora+matched", "sft-router+wrong", "sft-esft+sham", "sft-esft-x3-x2",
                 "sft-esft+matched-x2", "sft-lora-x0", "contrast-x2"):  # fmt: skip
        with pytest.raises(UserError, match="no variant"):
            get_variant(name)


def test_a_training_with_a_loss_of_similarity_has_its_own_controls():
    arm, control = get_variant("sft-lora-cka-x3"), get_variant("sft-lora-cka-x3+shuffled")
    zero = get_variant("sft-lora-cka-x3+zero")
    assert (arm.recipe, arm.rated_by, arm.adds_loss) == ("lora-cka", "lora", True)
    assert [one.expert_source for one in (arm, control, zero)] == [
        "method", "shuffled_rows", "zero_weight"
    ]  # fmt: skip
    assert (zero.control_of, zero.epochs, zero.zero_strength) == (arm.name, 3, False)
    assert controls_for(arm, "random_matched", [arm, control, zero]) == (control,)
    levels = ("none", "placebo", "full")
    added = [[one.name.partition("+")[2] for one in with_controls([arm], level, 3)[1:]]
             for level in levels]  # fmt: skip
    assert added == [[], ["shuffled"], ["shuffled", "zero"]]
    assert with_controls([get_variant("sft-simsmoe")], "full", 3)[1:] == ()
    for name in ("sft-simsmoe+zero", "sft-simsmoe+shuffled", "sft-lora+zero", "contrast+zero",
                 "sft-lora-cka+matched", "sft-lora-cka+pooled", "sft-lora-cka+sham",
                 "learned-profile+zero", "sft-lora-cka+zero-x3", "sft-lora-cka+wrong"):  # fmt: skip
        with pytest.raises(UserError, match="no variant"):
            get_variant(name)


def test_any_steered_arm_is_also_one_on_a_quantized_model():
    for name in ("base", "contrast", "frequency+mask", "reap+prune-4", "prompt", "residual"):
        arm, rounded = get_variant(name), get_variant(f"{name}-int4")
        changed = {"name", "summary", "quantized"}
        assert rounded.model_dump(exclude=changed) == arm.model_dump(exclude=changed)
        assert (rounded.quantized, unquantized_arm(rounded)) == ("int4", name)
        assert (rounded.is_base, rounded.other_weights) == (False, True)
    control = get_variant("contrast-fp8+matched-2")
    assert (control.control_of, control.draw, control.quantized) == ("contrast-fp8", 2, "fp8")
    assert unquantized_arm(control) == "contrast"
    assert unquantized_arm(get_variant("contrast+wrong")) == "contrast"
    for name in ("contrast-int3", "contrast+matched-int4", "sham-int4", "contrast-int4-fp8"):
        with pytest.raises(UserError, match=f"no variant '{re.escape(name)}'"):
            get_variant(name)


def test_of_fine_tuned_arms_lora_alone_is_trained_on_a_quantized_model():
    arm = get_variant("sft-lora-x3-int4")
    assert (arm.trained_by, arm.epochs, arm.quantized) == ("lora", 3, "int4")
    assert (arm.control_of, arm.takes_controls, arm.other_weights) == (None, False, True)
    assert [one.name for one in with_controls([arm], "full", 3)] == [arm.name, "base-int4"]
    for name in ("sft-esft", "sft-router", "sft-lora-cka", "sft-simsmoe"):
        with pytest.raises(UserError, match=f"only sft-lora is trained .*weights of {name}, and"):
            get_variant(f"{name}-int4")
        recipe = get_variant(name).model_dump() | {"quantized": "int8"}
        with pytest.raises(ValueError, match="of sft only recipe lora takes `quantized`"):
            Variant.model_validate(recipe)
    with pytest.raises(UserError, match="no variant 'sft-lora-int4-x3'"):
        get_variant("sft-lora-int4-x3")

"""The variants that there are."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import all_methods
from dsmoe_eval.registry import find_card
from dsmoe_eval.variants import all_variants, control_for, get_variant, own_file


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


def test_a_control_does_the_same_with_other_experts():
    among = all_variants().values()
    arm = get_variant("contrast")
    assert (
        control_for(arm, "random_matched", among).name == "random"
    )  # not suppress-random, which masks
    assert control_for(arm, "other_domain", among).name == "wrong-domain"
    assert control_for(arm, "random_matched", [arm]) is None
    assert control_for(get_variant("dsmoe"), "random_matched", among) is None
    named = [get_variant(name) for name in ("npmi+bias+matched", "npmi+bias")]
    assert control_for(named[1], "random_matched", named) == named[0]


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

"""Cards are found by name and by path; what is wrong is said with file and field."""

import pytest
import yaml

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import (
    builtin_names,
    find_card,
    load_model_card,
    load_plan,
    load_policy,
    load_suite,
)

WHOLE = "name: a\ndescription: d\nmodel: m\nsuite: s\nvariants: [base]\n"


def test_every_built_in_card_loads():
    for name in builtin_names("models"):
        card = load_model_card(name)
        assert card.name == name
        assert card.sources
    for name in builtin_names("suites"):
        assert load_suite(name).name == name
    for name in builtin_names("plans"):
        assert load_plan(name)[0].name == name
    for name in builtin_names("policies"):
        assert load_policy(name).name == name


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match=r"no suite 'labb'; built in: .*lab"):
        find_card("suites", "labb")


def test_a_missing_path():
    with pytest.raises(UserError, match="no such file"):
        find_card("plans", "nowhere/plan.yaml")


def test_a_path_in_a_plan_is_from_the_plan_s_folder(tmp_path, monkeypatch):
    (tmp_path / "plans").mkdir()
    near, here = tmp_path / "plans" / "mine.yaml", tmp_path / "mine.yaml"
    here.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_card("suites", "mine.yaml", tmp_path / "plans" / "p.yaml").resolve() == here
    near.write_text("")
    assert find_card("suites", "mine.yaml", tmp_path / "plans" / "p.yaml") == near
    with pytest.raises(UserError, match=r"plans/no.yaml: no such file"):
        find_card("suites", "no.yaml", tmp_path / "plans" / "p.yaml")


@pytest.mark.parametrize("kind", ["models", "suites"])
def test_a_plan_finds_cards_in_the_users_own_folders(tmp_path, kind):
    (tmp_path / kind).mkdir()
    (tmp_path / "plans").mkdir()
    own = tmp_path / kind / "mine.yaml"
    own.write_text("")
    assert find_card(kind, "mine", tmp_path / "plans" / "p.yaml") == own


def test_a_users_model_card_is_read_by_path_and_by_name(tmp_path):
    text = find_card("models", "olmoe-1b-7b").read_text().replace("olmoe-1b-7b", "mine", 1)
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "mine.yaml"
    path.write_text(text)
    assert load_model_card(str(path)) == load_model_card("mine", tmp_path / "plan.yaml")
    path.write_text(text.replace("top_k: 8", "top_k: 64"))
    with pytest.raises(UserError, match=r"mine\.yaml.*top_k 64 is not below 64 experts"):
        load_model_card(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "is a mapping"),
        ("name: a\n", "description: Field required"),
        (WHOLE + "margin: 2\n", "margin: Input should be less than 1"),
        (WHOLE + "margin: 0.1\nsurprise: 1\n", "surprise: Extra inputs"),
        ("name: ../evil\n", "name: String should match"),
    ],
)
def test_a_wrong_plan_is_told_by_file_and_field(tmp_path, text, words):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        load_plan(str(path))
    assert str(path) in str(error.value)


def test_a_suite_whose_tasks_dir_is_missing(tmp_path):
    text = (find_card("suites", "lab")).read_text().replace("../tasks/lab", "nowhere")
    (tmp_path / "lab.yaml").write_text(text)
    with pytest.raises(UserError, match="is no folder"):
        load_suite(str(tmp_path / "lab.yaml"))


def test_case_20_every_fault_of_a_file_is_said(tmp_path):
    path = tmp_path / "bad.yaml"
    tasks = [{"name": f"t{n}", "domain": "d", "roles": ["goal"], "metric": "acc"} for n in range(8)]
    content = {"name": "s", "description": "", "splits": {"test": "test"}, "tasks": tasks}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        load_suite(str(path))
    assert all(f"tasks.{n}.roles.0: " in str(refused.value) for n in range(8))


def test_a_list_is_not_called_too_short_for_the_faults_of_its_entries(tmp_path):
    path = tmp_path / "plan.yaml"
    text = find_card("plans", "lab").read_text()
    path.write_text(text.replace("[8, 16, 24]", "[0]"))
    with pytest.raises(UserError) as error:
        load_plan(str(path))
    assert str(error.value) == (
        f"{path}: tuning.expert_counts.0: Input should be greater than or equal to 1 (got 0)"
    )
    path.write_text(text.replace("[8, 16, 24]", "[]"))
    with pytest.raises(UserError, match="at least 1 item"):
        load_plan(str(path))

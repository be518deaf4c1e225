"""The command that a report gives to run the same again, and the line by which it is cited."""

import json
import shlex
import shutil

import pytest
import yaml
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card
from dsmoe_eval.reports import render
from dsmoe_eval.reports.run_again import citation, run_again
from dsmoe_eval.results import RunFolder

from ..recorded import record


def changed(folder, to, keys=(), **identity):
    """A copy of what a run's folder says of its plan, with other keys."""
    to.mkdir()
    own = yaml.safe_load(folder.plan.read_text()) | dict(keys)
    (to / "plan.yaml").write_text(yaml.safe_dump(own))
    before = json.loads((folder.root / "run.json").read_text())
    (to / "run.json").write_text(json.dumps(before | identity))
    record(to)
    return RunFolder(to)


def test_case_21_a_plan_that_is_not_built_in_is_the_file_in_the_runs_folder(folder, result):
    """The plan has the name and not the text of a built-in one."""
    assert result.plan == "lab"
    command, remark = run_again(folder, result)
    assert command == "dsmoe-eval run plan.yaml --limit 6"
    assert remark == "plan.yaml is in the run's folder: the plan is not built in."


def test_case_21_the_command_runs_the_same(folder, result, tmp_path, monkeypatch):
    copy = tmp_path / "r"
    shutil.copytree(folder.root, copy)
    (copy / "comparisons.json").unlink()
    monkeypatch.chdir(copy)
    words = shlex.split(run_again(folder, result)[0])[1:]
    done = CliRunner().invoke(main, [*words, "--out", str(copy), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert RunFolder(copy).comparisons.read_bytes() == folder.comparisons.read_bytes()
    assert f"root hash {RunFolder(copy).root_hash}" in done.output


def test_case_21_a_built_in_plan_is_its_name(folder, result, tmp_path):
    other = changed(folder, tmp_path / "r")
    shutil.copy(find_card("plans", "lab"), other.plan)
    record(other.root)
    assert run_again(other, result) == ("dsmoe-eval run lab --limit 6", "")


def test_case_21_model_and_seed_that_the_plan_does_not_say_are_options(folder, result, tmp_path):
    models = {"model": "", "models": ["a", "my models/b"], "seed": 7}
    before = json.loads((folder.root / "run.json").read_text())["plan"]
    other = changed(folder, tmp_path / "r", models, plan=before | {"model": "my models/b"})
    assert run_again(other, result)[0] == (
        "dsmoe-eval run plan.yaml --model 'my models/b' --seed 0 --limit 6"
    )


def test_case_21_suites_and_variants_of_the_user_are_named(folder, result, tmp_path):
    other = changed(folder, tmp_path / "r", own_variants=[{"name": "mild"}])
    mine = result.model_copy(update={"run": result.run.model_copy(update={"suite": "mine"})})
    assert run_again(other, mine)[1].endswith("names what is there: suite mine, variant mild.")


def test_case_21_both_reports_say_it(folder, tmp_path):
    page = render(folder, tmp_path)
    for text in (page.read_text(), (tmp_path / "index.html").read_text()):
        _, _, said = text.partition("How to get it again")
        assert "dsmoe-eval run plan.yaml --limit 6" in said
        assert "the plan is not built in" in said


def test_case_21_a_folder_without_its_plan_is_an_error(folder, result, tmp_path):
    other = changed(folder, tmp_path / "r")
    other.plan.unlink()
    with pytest.raises(UserError, match=r"plan\.yaml: no such file"):
        run_again(other, result)


def test_a_citation_names_all_that_a_run_is_known_by(folder, result):
    line = citation(folder, result)
    assert "\n" not in line
    for words in (
        f"dsmoe-eval {result.run.versions['dsmoe-eval']}",
        "plan lab on suite lab, seed 0, limited to 6 items per task",
        f"model lab-poly, fingerprint {result.run.fingerprint}",
        f"root hash of the run's files {folder.root_hash}.",
    ):
        assert words in line
    page = render(folder)
    assert f"> {line}" in page.read_text()
    assert (
        f"<blockquote>{line.replace(chr(39), '&#39;')}</blockquote>"
        in (page.parent / "index.html").read_text()
    )

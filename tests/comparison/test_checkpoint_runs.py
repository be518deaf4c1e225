"""Which of two sides is a run and which a model to run; nothing runs before all is checked."""

import json
import shutil

import pytest
import yaml

from dsmoe_eval.comparison import checkpoint_runs
from dsmoe_eval.comparison.checkpoint_runs import finished_runs, run_both
from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.results import read_finished
from dsmoe_eval.runs import RunOptions

from ..leaderboards.conftest import SMALL

FOLDER = str(EMBEDDED_MODELS["lab-poly"])


@pytest.fixture(scope="module")
def root(make_run):
    return make_run(**SMALL)


@pytest.fixture(scope="module")
def plan(root, tmp_path_factory):
    """The run's plan under another name, without its model."""
    card = yaml.safe_load((root / "plan.yaml").read_text())
    path = tmp_path_factory.mktemp("plan") / "p.yaml"
    path.write_text(yaml.safe_dump(card | {"name": "q", "model": "lab-poly"}))
    return str(path)


@pytest.fixture
def runner(monkeypatch, root):
    """What was run, instead of a model that runs for long."""
    made = []

    def run_with(plan, out, options, console):
        made.append((out.name, options.model, options.limit))
        shutil.copytree(root, out)
        return read_finished(out).folder

    monkeypatch.setattr(checkpoint_runs, "run_with", run_with)
    return made


def test_models_are_run_and_runs_are_read(root, plan, runner, tmp_path):
    old, new = run_both(str(root), "lab-poly", plan, tmp_path)
    assert (old.folder.root, new.folder.root) == (root, tmp_path / "new")
    assert runner == [("new", "lab-poly", None)]


def test_two_models_have_a_folder_each(plan, runner, tmp_path):
    options = RunOptions(limit=3)
    old, new = run_both("lab-poly", FOLDER, plan, tmp_path, options)
    assert runner == [("old", "lab-poly", 3), ("new", FOLDER, 3)]
    assert (old.folder.root, new.folder.root) == (tmp_path / "old", tmp_path / "new")


def test_two_runs_need_no_plan(root, runner, tmp_path):
    both = run_both(str(root), str(root), None, tmp_path)
    assert [run.folder.root for run in both] == [root, root]
    assert not runner


def dense_model(folder):
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    (folder / "dense").mkdir()
    (folder / "dense" / "config.json").write_text(json.dumps(config))
    return str(folder / "dense")


def test_nothing_runs_where_a_side_cannot(root, plan, runner, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(root, unfinished)
    (unfinished / "comparisons.json").unlink()
    for sides, given, options, words in (
        (("lab-poly", "lab-poly"), None, {}, "lab-poly is no run's folder; give --plan"),
        (("lab-poly", "no-such-model"), plan, {}, "no-such-model"),
        (("lab-poly", dense_model(tmp_path)), plan, {}, "has no router"),
        (("lab-poly", str(unfinished)), plan, {}, "finish the run first"),
        (("lab-poly", str(root)), plan, {"limit": 5}, r"limit \(None, and 5\)"),
        (("lab-poly", str(root)), plan, {"seed": 5}, r"seed \(0, and 5\)"),
    ):
        with pytest.raises(UserError, match=words):
            run_both(*sides, given, tmp_path / "out", RunOptions(**options))
    assert not runner
    assert finished_runs("lab-poly", "lab-poly", plan) == {}

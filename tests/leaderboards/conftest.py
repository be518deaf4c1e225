"""Finished runs by chance, and leaderboards of them; see `benchmarks/speed/synthetic_run.py`."""

import datetime
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from dsmoe_eval.leaderboards import Submission, add_run, build
from dsmoe_eval.leaderboards.checks import read_entries
from dsmoe_eval.leaderboards.entries import submitted_runs

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "speed" / "synthetic_run.py"
SUBMISSION = Submission(date=datetime.date(2026, 1, 2), by="A. Nother", hardware="a machine")
SMALL = {"items": 120, "domains": ("math", "law", "poetry"), "targets": ("math",)}
"""What a run needs that is there to differ from another."""


def _synthetic():
    if "synthetic_run" not in sys.modules:
        spec = importlib.util.spec_from_file_location("synthetic_run", FILE)
        module = sys.modules["synthetic_run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["synthetic_run"]


_MADE = {}
"""Made once, also where another folder's conftest has these fixtures too."""


def _once(key, make):
    if key not in _MADE:
        _MADE[key] = make()
    return _MADE[key]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Make a finished run that differs as told; gives its folder, which must stay as it is."""

    def make(**changes):
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
        module, key = _synthetic(), tuple(sorted((k, json.dumps(v)) for k, v in lists.items()))
        spec = module.Spec(**{k: json.loads(v) for k, v in key})
        return _once(key, lambda: module.make_run(tmp_path_factory.mktemp("runs") / "run", spec))

    return make


@pytest.fixture(scope="session")
def run(make_run):
    """All variants on two targets, four tasks, one of them generated."""
    return make_run()


@pytest.fixture(scope="session")
def _clean(run, make_run, tmp_path_factory):
    def filed():
        root = tmp_path_factory.mktemp("boards") / "leaderboards"
        for one in (run, make_run(seed=1)):
            add_run(one, root, SUBMISSION)
        build(root)
        return root

    return _once("boards", filed)


@pytest.fixture
def board(_clean, tmp_path):
    """A clean leaderboard of two seeds of one model, built; it may be changed."""
    return Path(shutil.copytree(_clean, tmp_path / "leaderboards"))


@pytest.fixture
def folder(board):
    """The folder of the board's only revision."""
    return board / "subjects" / "lab__moe-7b" / "ab12ab12ab12"


@pytest.fixture(scope="session")
def submission():
    """Who files what tests file."""
    return SUBMISSION


@pytest.fixture(scope="session")
def runs_of():
    """The runs that a folder of leaderboards holds."""

    def read(root):
        files = read_entries(root)
        assert not files.faults
        return submitted_runs(files.entries)

    return read


@pytest.fixture(scope="session")
def file_runs():
    """File some runs into a folder, in order; gives the folder."""

    def add(root, *runs):
        for one in runs:
            add_run(one, root, SUBMISSION)
        return root

    return add

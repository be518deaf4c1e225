"""What Inspect finds of the installed package, and its own command line with it."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from inspect_ai import eval  # noqa: A004
from inspect_ai.log import list_eval_logs, read_eval_log

from dsmoe_eval.errors import UserError
from dsmoe_eval.inspect_plugin import suite_task
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match

@task
def sums():
    samples = [Sample(id=n, input=f"What is {n} + 1?", target=str(n + 1)) for n in range(5)]
    return Task(dataset=samples, scorer=match(), config=GenerateConfig(max_tokens=6))
"""


def test_the_package_is_installed_with_its_entry_points():
    found = {
        point.value
        for group in ("inspect_ai", "lm_eval.models", "console_scripts")
        for point in entry_points(group=group)
    }
    assert {
        "dsmoe_eval.inspect_plugin",
        "dsmoe_eval.adapters.lm_eval_model:SteeredLM",
        "dsmoe_eval.adapters.lm_eval_model:main",
    } <= found


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    code = (
        "import sys, dsmoe_eval, dsmoe_eval.cli\n"
        "from unittest.mock import MagicMock\n"
        "assert not {'inspect_ai', 'torch'} & {*sys.modules}\n"
        "sys.modules |= {'inspect_ai': MagicMock(), 'inspect_ai.model': MagicMock()}\n"
        "import dsmoe_eval.inspect_plugin\n"
        "assert not {'torch', 'transformers', 'lm_eval'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code


@pytest.mark.slow
def test_inspects_own_command_evaluates_a_steered_model(tmp_path):
    model = load_model("lab-poly", "cpu")
    profile = trial_profile(model.identity, Intervention(kind="bias", strength=6.0), range(4))
    (tmp_path / "p.json").write_text(profile.to_json())
    (tmp_path / "sums.py").write_text(TASK)
    arguments = [
        "sums.py", "--model", "dsmoe/lab-poly", "-M", "profile=p.json", "--limit", "3",
        "--log-dir", "logs",
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "inspect_ai", "eval", *arguments],
        cwd=tmp_path, env={**os.environ, "INSPECT_DISPLAY": "plain"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = map(read_eval_log, list_eval_logs(str(tmp_path / "logs")))
    assert log.status == "success"
    assert log.eval.model == f"dsmoe/lab-poly@{profile.id}"
    assert len(log.samples) == 3
    assert {sample.output.metadata["profile"] for sample in log.samples} == {profile.id}


def test_a_suites_task_is_known_by_name(tmp_path):
    (log,) = eval(
        "dsmoe_eval/suite_task", task_args={"suite": "lab", "name": "lab_arithmetic"},
        model="dsmoe/lab-poly", limit=2, display="none", log_dir=str(tmp_path),
    )  # fmt: skip
    assert (log.status, log.eval.dataset.samples) == ("success", 173)
    with pytest.raises(UserError, match="has no task 'sums'"):
        suite_task("lab", "sums")

"""What Inspect finds of the installed package, and its own command line with it."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from dsmoe_eval.engines import load_model
from dsmoe_eval.engines.probing import trial_profile
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
        "dsmoe_eval.engines.lm_eval_model:SteeredLM",
        "dsmoe_eval.engines.lm_eval_model:main",
    } <= found


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    code = (
        "import sys, dsmoe_eval, dsmoe_eval.cli\n"
        "assert not {'inspect_ai', 'torch'} & {*sys.modules}\n"
        "import dsmoe_eval.inspect_plugin\n"
        "assert not {'torch', 'transformers', 'lm_eval'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code


@pytest.mark.slow
def test_inspects_own_command_evaluates_a_steered_model(tmp_path):
    """A user's file and a task of ours, by one command; the log tells the profile."""
    model = load_model("lab-poly", "cpu")
    profile = trial_profile(model.identity, Intervention(kind="bias", strength=6.0), range(4))
    (tmp_path / "p.json").write_text(profile.to_json())
    (tmp_path / "sums.py").write_text(TASK)
    arguments = [
        "sums.py", "dsmoe_eval/suite_task", "-T", "suite=lab", "-T", "name=lab_arithmetic",
        "--model", "dsmoe/lab-poly", "-M", "profile=p.json", "--limit", "3", "--log-dir", "logs",
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "inspect_ai", "eval", *arguments],
        cwd=tmp_path, env={**os.environ, "INSPECT_DISPLAY": "plain"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    logs = {
        log.eval.task: log for log in map(read_eval_log, list_eval_logs(str(tmp_path / "logs")))
    }
    assert {log.status for log in logs.values()} == {"success"}
    assert {log.eval.model for log in logs.values()} == {f"dsmoe/lab-poly@{profile.id}"}
    for log in logs.values():
        assert len(log.samples) == 3
        assert {sample.output.metadata["profile"] for sample in log.samples} == {profile.id}
    assert len(logs) == 2

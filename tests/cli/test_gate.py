"""The gate as CI starts it: a real small run, exit codes, and the three files."""

import json
import shutil
from xml.etree import ElementTree

import pytest
import yaml
from rich.console import Console

from dsmoe_eval import gates
from dsmoe_eval.cli import main
from dsmoe_eval.gates.outputs import FILES, SUMMARY_VARIABLE
from dsmoe_eval.registry import find_card
from dsmoe_eval.runs import run

pytestmark = pytest.mark.slow

VALID = [
    {"name": "probes passed", "tier": "critical", "metric": "probes_passed"},
    {"name": "sham", "tier": "critical", "metric": "sham_equals_base"},
    {"name": "no leakage", "tier": "critical", "metric": "leaked_items", "at_most": 0},
]
SINCE = {"name": "since", "tier": "critical", "metric": "target_gain", "against": "baseline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"targets": ["math"], "variants": ["base", "sham", "contrast", "random"]}
    plan["tuning"] = {"expert_counts": [4], "strengths": {"bias": [1.0]}}
    path = tmp_path_factory.mktemp("plan") / "gated.yaml"
    path.write_text(yaml.safe_dump(plan))
    out = tmp_path_factory.mktemp("runs") / "r"
    return run(str(path), out, limit=4, device="cpu", console=Console(quiet=True)).root


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch):
    monkeypatch.delenv(SUMMARY_VARIABLE, raising=False)


@pytest.fixture
def gate(capsys):
    """Gate something; gives the exit code and both streams."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["gate", *map(str, arguments)])
        streams = capsys.readouterr()
        return int(stop.value.code or 0), streams.out, streams.err

    return call


@pytest.fixture
def policy(tmp_path):
    """Write a policy of some rules; gives its path."""

    def write(*rules, file="policy.yaml", **keys):
        path = tmp_path / file
        card = {"name": "own", "description": "d", "rules": list(rules)} | keys
        path.write_text(yaml.safe_dump(card))
        return path

    return write


def test_a_smoke_test_fails_the_policies_that_ship(gate, folder, tmp_path):
    code, out, _ = gate(folder, "--policy", "default", "--out", tmp_path)
    assert code == 1
    assert "unmet        the whole run: the run: a smoke test of 4 items a task" in out
    assert "missing" not in out
    assert out.splitlines()[-1].startswith(
        f"fail: {folder} by policy default, because of the whole"
    )
    assert gate(folder, "--policy", "strict", "--out", tmp_path)[0] == 1


def test_pass_fail_and_inconclusive(gate, folder, policy, tmp_path, monkeypatch):
    job = tmp_path / "step.md"
    monkeypatch.setenv(SUMMARY_VARIABLE, str(job))
    gain = {"name": "gain", "tier": "critical", "metric": "target_gain"}
    for rules, expected, outcome in (
        (VALID, 0, "pass"),
        ([*VALID, gain | {"at_least": -0.01}], 2, "inconclusive"),
        ([*VALID, gain | {"at_least": 2}], 1, "fail"),
    ):
        code, out, _ = gate(folder, "--policy", policy(*rules), "--out", tmp_path / "out")
        assert (code, out.splitlines()[-1].partition(":")[0]) == (expected, outcome)
        told = json.loads((tmp_path / "out" / "verdict.json").read_text())
        assert (told["exit_code"], told["outcome"]) == (expected, outcome)
        assert job.read_text().endswith((tmp_path / "out" / "summary.md").read_text())
        suites = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()  # noqa: S314
        assert int(suites.get("failures")) == (expected == 1)
    assert job.read_text().count("## dsmoe-eval gate: ") == 3


def test_json_is_the_verdict_and_files_go_beside_the_run(gate, folder, policy):
    code, out, _ = gate(folder, "--policy", policy(*VALID), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((folder / "gate" / "verdict.json").read_text())
    assert {path.name for path in (folder / "gate").iterdir()} == set(FILES)


def test_against_a_baseline(gate, folder, policy, tmp_path):
    alone = tmp_path / "comparisons.json"
    shutil.copy(folder / "comparisons.json", alone)
    wanted = policy(*VALID, SINCE | {"at_least": -0.05})
    code, out, _ = gate(folder, "--policy", wanted)
    assert (code, "no baseline  since" in out) == (0, True)
    code, out, _ = gate(folder, "--policy", wanted, "--baseline", folder)
    assert (code, "item by item: every score is the same" in out) == (0, True)
    code, out, _ = gate(folder, "--policy", wanted, "--baseline", alone)
    assert (code, "by intervals: samples are missing" in out) == (2, True)
    required = policy(*VALID, SINCE | {"at_least": -0.05}, baseline="required")
    code, _, err = gate(folder, "--policy", required)
    assert (code, "requires a baseline; give --baseline RUN" in err) == (3, True)


def test_what_cannot_be_decided_is_3_or_4_and_leaves_no_earlier_verdict(
    gate, folder, policy, tmp_path, monkeypatch
):
    out, wanted = tmp_path / "out", policy(*VALID)
    odd = policy(VALID[0] | {"surprise": 1}, file="odd.yaml")
    broken = tmp_path / "broken" / "comparisons.json"
    broken.parent.mkdir()
    broken.write_text("{")
    for arguments, words in (
        ((tmp_path / "nowhere", "--policy", wanted), "has no comparisons.json"),
        ((broken, "--policy", wanted), "damaged JSON"),
        (
            (folder, "--policy", "no-such"),
            "no policy 'no-such'; built in: default, regression, strict",
        ),
        ((folder, "--policy", odd), "surprise: Extra inputs"),
        ((folder, "--policy", wanted, "--baseline", broken.parent), "damaged JSON"),
    ):
        assert gate(folder, "--policy", wanted, "--out", out)[0] == 0
        code, _, err = gate(*arguments, "--out", out)
        assert (code, words in err) == (3, True), err
        assert "Traceback" not in err
        assert not any((out / name).exists() for name in FILES)
    assert gate(folder)[0] == 3
    monkeypatch.setattr(gates, "decide", lambda *_: 1 / 0)
    code, _, err = gate(folder, "--policy", wanted, "--out", out)
    assert (code, "ZeroDivisionError" in err) == (4, True)


def test_a_summary_that_cannot_be_written_is_no_verdict(gate, folder, policy, monkeypatch):
    monkeypatch.setenv(SUMMARY_VARIABLE, str(folder))
    code, _, err = gate(folder, "--policy", policy(*VALID))
    assert (code, "Is a directory" in err) == (3, True)

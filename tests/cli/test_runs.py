"""A run, here and as a process, stderr in a file: what is said of it, and what its log holds."""

import json
import logging
import os
import socket
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from dsmoe_eval.cli.main import _shown_records, main
from dsmoe_eval.files import lock_folder
from dsmoe_eval.log import log_file, note
from dsmoe_eval.registry import find_card


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("[b]plan")  # which no markup may take for its own
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"variants": ["base", "contrast", "sham"], "targets": ["math"], "sft": None}
    plan |= {"tuning": {"expert_counts": [4, 8], "strengths": {"bias": [1.0]}}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yaml"


def arguments(plan, out, *options):
    return [*options, "run", str(plan), "--out", str(out), "--limit", "2", "--device", "cpu"]


def start(plan, out, *options):
    """Run it as a process; gives exit code and the lines on stderr."""
    command = [sys.executable, "-m", "dsmoe_eval", *arguments(plan, out, *options)]
    with out.with_suffix(".err").open("w") as stderr:
        done = subprocess.run(command, stderr=stderr, stdout=subprocess.DEVNULL, check=False)  # noqa: S603
    return done.returncode, out.with_suffix(".err").read_text().splitlines()


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "[i]a"
    done = CliRunner().invoke(main, arguments(plan, out))
    return out, done.exit_code, done.stderr.splitlines()


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


STAGES = ("identify experts", "tune arms", "answer test items")


def test_each_stage_says_that_it_begins_and_ends_with_its_counts(finished):
    _out, code, said = finished
    assert code == 0, said
    texts, tuning, answers = 7 * 2, 7 * 2 + 2 * 7 * 2, 7 * 2 + 2 * 7 * 2
    counts = dict(
        zip(STAGES, (f"{texts} texts", f"{tuning} answers", f"{answers} answers"), strict=True)
    )
    lines = [line for line in said if line.startswith(STAGES)]
    for stage in STAGES:
        first, *_, last = [line for line in lines if line.startswith(stage)]
        assert first == f"{stage}: begins, {counts[stage]}"
        assert last.startswith(f"{stage}: done, {counts[stage]} in ")


def test_names_of_folders_are_said_as_they_are(finished):
    out, _, said = finished
    assert str(out) in "".join(said).replace("\n", "")


def test_the_log_holds_stages_cells_probes_and_figures(finished):
    out = finished[0]
    found = rows(out)
    assert found[0]["message"] == "run begins"
    assert found[0]["fields"]["model"] == "lab-poly"
    assert found[-1]["message"] == "run ends"
    for stage in STAGES:
        messages = [row["message"] for row in found if row["stage"] == stage]
        assert (messages[0], messages[-1]) == ("stage begins", "stage ends")
    done = [row["fields"] for row in found if row["message"] == "cell done"]
    assert {row["cell"] for row in done} == {path.name for path in (out / "cells").iterdir()}
    assert found[0]["fields"]["cells"] == len(done)
    assert all(row["items"] == 2 and row["seconds"] > 0 for row in done)
    probes = [row["fields"] for row in found if row["message"] == "probes passed"]
    assert len(probes) == 2 + 2  # settings that were tried, and steered arms
    assert all(row["null_max_difference"] == 0 for row in probes)
    assert len([row for row in found if row["message"] == "setting tried"]) == 2


def test_the_log_holds_no_question_and_no_answer(finished):
    import pandas as pd

    out = finished[0]
    log = (out / "log.jsonl").read_text()
    for path in out.glob("cells/*/samples.parquet"):
        for question in pd.read_parquet(path)["question"]:
            assert question.strip()[:40] not in log


def test_a_second_start_appends_to_the_log(finished, plan):
    out = finished[0]
    before = (out / "log.jsonl").read_text()
    code, said = start(plan, out, "--log-level", "error")
    assert (code, "\n".join(said)) == (0, "")
    after = (out / "log.jsonl").read_text()
    assert after.startswith(before)
    assert "cell done" not in after[len(before) :]
    assert rows(out)[-1]["message"] == "run ends"


def test_debug_says_what_else_only_the_log_holds(tmp_path, capsys):
    with _shown_records(logging.DEBUG), log_file(tmp_path / "log.jsonl"):
        note("stage begins", total=3)  # a console says it
        note("cell done", logging.DEBUG, task="a", items=2)
    assert capsys.readouterr().err == "cell done: task=a items=2\n"
    with _shown_records(logging.INFO), log_file(tmp_path / "log.jsonl"):
        note("cell done", logging.DEBUG, task="a", items=2)
    assert capsys.readouterr().err == ""


def test_handlers_of_other_libraries_get_no_records(tmp_path, caplog):
    with _shown_records(logging.INFO), log_file(tmp_path / "log.jsonl"):
        note("stage begins", total=3)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, f"{text!r} is no shard; give I/N, such as 2/8") for text in (
            "", "2", "/4", "2/", "a/4", "2/4/6", "-1/4", "1.5/4", "2 / 4", "1/0", "1/" + "9" * 5000
        )),
        ("0/4", "shard 0/4: give one from 1/4"),
        ("5/4", "shard 5/4: give one from 1/4"),
    ],
)  # fmt: skip
def test_a_bad_shard_is_refused_with_a_sentence(plan, tmp_path, text, words):
    done = CliRunner().invoke(main, [*arguments(plan, tmp_path / "a"), "--shard", text])
    assert (done.exit_code, len(done.stderr.splitlines())) == (3, 1)
    assert f"Invalid value for '--shard': {words}" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_shard_goes_without_another_executor(plan, tmp_path):
    command = [*arguments(plan, tmp_path / "a"), "--shard", "1/2", "--executor", "ray"]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, len(done.stderr.splitlines())) == (3, 1)
    assert "--shard is for schedulers without Ray; leave out --executor" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_shard_says_what_is_left_to_do(plan, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("dsmoe_eval.executors.local.run_with", lambda *one: started.append(one[-1]))
    out = tmp_path / "a"
    done = CliRunner().invoke(main, [*arguments(plan, out), "--shard", "2/3"])
    assert done.exit_code == 0
    assert [str(part.shard) for part in started] == ["2/3"]
    said = f"{out}: this shard is done; after all of them, run without --shard to compare"
    assert done.stdout.strip() == said


@pytest.mark.slow
def test_case_15_a_second_process_is_refused(finished, plan):
    out = finished[0]
    unlock = lock_folder(out)
    words = f"process {os.getpid()} on {socket.gethostname()} works in this folder; wait until"
    code, said = start(plan, out, "--log-level", "error")
    assert (code, len(said)) == (3, 1)
    assert words in said[0]
    command = [sys.executable, "-m", "dsmoe_eval", "report", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, words in done.stderr) == (3, True)
    unlock()
    assert not (out / ".lock").exists()


@pytest.mark.full
def test_arms_that_do_nothing_fail_the_run_that_goes_on(plan, tmp_path):
    """A learning rate or a strength that float32 cannot add makes every arm a silent no-op."""
    content = yaml.safe_load(plan.read_text())
    silent = ["contrast", "sft-lora", "sft-esft", "sft-router"]
    content |= {"variants": ["base", "sham", *silent, "frequency+mask", "sft-lora-x2"]}
    content |= {"placebo_draws": 1, "controls": "placebo"}
    content["tuning"] = {"expert_counts": [4], "strengths": {"bias": [1e-300], "mask": [1.0]}}
    tiny = dict.fromkeys(("lora", "esft", "router"), 1e-300)
    content["sft"] = {"rank": 2, "lora_alpha": 4, "learning_rate": tiny, "epochs": 1}
    content["sft"]["batch_size"] = 2
    path = tmp_path / "silent.yaml"
    path.write_text(yaml.safe_dump(content))
    done = CliRunner().invoke(main, arguments(path, tmp_path / "run"))
    assert done.exit_code == 5, done.stderr
    failed = [*silent, "sft-lora-x2"]
    said = ", ".join(f"{name} on math" for name in failed)
    assert done.stderr.splitlines()[-1].endswith(f"{len(failed)} arms did not act: {said}")
    first, *_ = (tmp_path / "run" / "report" / "report.md").read_text().splitlines()[2:]
    assert first.startswith("> **FAILED. 5 of 10 arms did not act: contrast on math, ")
    arms = json.loads((tmp_path / "run" / "comparisons.json").read_text())["arms"]
    verdicts = {arm["variant"]: arm["acted"] and arm["acted"]["verdict"] for arm in arms}
    assert verdicts["frequency+mask"] == "acted"
    assert verdicts["sft-esft+matched"] == verdicts["contrast+matched"] == "idle"
    assert verdicts["sham"] is None
    again = CliRunner().invoke(main, arguments(path, tmp_path / "run"))
    assert again.exit_code == 5

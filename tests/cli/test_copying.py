"""`dsmoe-eval copy`, and the commands that read runs at URLs: what they write, say and hide."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from dsmoe_eval.cli import main
from dsmoe_eval.files import write_bytes
from dsmoe_eval.reports.serve import _index, open_site
from dsmoe_eval.results import RunFolder
from dsmoe_eval.storage.copies import COPY, local_copy

from ..leaderboards.conftest import SMALL
from .test_regress import remove_profiles

HIDDEN = "wJalrXUtnFEMI"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call a command in an empty folder with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dsmoe_eval.storage.names._SHOWN", {})
    monkeypatch.chdir(tmp_path)

    def called(*arguments, level="error"):
        done = CliRunner().invoke(main, ["--log-level", level, *map(str, arguments)])
        assert "cache" not in done.output.replace(str(Path.home()), "")
        return done

    return called


@pytest.fixture
def at(call, make_run, tmp_path):
    """The URL of the copy of a small finished run."""
    source = Path(shutil.copytree(make_run(**SMALL, variants=("base", "contrast", "random")),
                                  tmp_path / "source"))  # fmt: skip
    remove_profiles(source)
    url = f"file://{tmp_path}/bucket/run"
    assert call("copy", source, url).exit_code == 0
    return url


def test_a_copy_says_what_it_moved(call, tmp_path):
    write_bytes(tmp_path / "report" / "index.html", b"<p>")
    url = f"file://{tmp_path}/bucket"
    done = call("copy", "report", url)
    assert (done.exit_code, done.stdout) == (0, f"copied 1 of 1 files, 3 bytes, to {url}\n")
    write_bytes(tmp_path / "report" / "report.md", b"12")
    done = call("copy", "report", url, level="info")
    assert "copied 1 of 2 files, 2 bytes" in done.stdout
    assert done.stdout.endswith("; 1 were there already\n")
    assert "copy: done, 2 files" in done.stderr
    write_bytes(tmp_path / "bucket" / "index.html", b"<p>other</p>")
    done = call("copy", "report", url)
    assert "written again, since it was changed there: index.html" in done.stdout
    said = json.loads(call("copy", url, "back", "--json").stdout)
    assert said == {
        "source": url, "target": "back", "files": 2, "moved": 2, "size": 5, "changed": [],
    }  # fmt: skip


def test_a_run_at_a_url_passes_the_gate_under_its_name(call, at, tmp_path):
    done = call("gate", at, "--policy", "default", "--out", "gate", "--baseline", at)
    assert done.exit_code in (0, 1, 2), done.output
    assert f": {at} by policy default" in done.stdout
    verdict = json.loads((tmp_path / "gate" / "verdict.json").read_text())
    assert (verdict["run"], verdict["baseline"]) == (at, at)
    local = call("gate", "source", "--policy", "default", "--out", "gate")
    assert local.exit_code == done.exit_code
    assert call("gate", f"{at}/comparisons.json", "--policy", "default", "--out", "g").exit_code < 3
    refused = call("gate", at, "--policy", "default")
    assert (refused.exit_code, f"{at}: is only read; name a folder" in refused.output) == (3, True)


def test_other_commands_read_it_too(call, at, tmp_path):
    done = call("compare", f"{at}:base", f"{at}:contrast:math", "--json")
    assert done.exit_code == 0, done.output
    assert (found := json.loads(done.stdout))["b"] == f"{at}:contrast:math"
    local = json.loads(call("compare", "source:base", "source:contrast:math", "--json").stdout)
    assert {**found, "a": 0, "b": 0} == {**local, "a": 0, "b": 0}
    done = call("regress", at, "source", "--out", "changes")
    assert (done.exit_code, f": {at}" in done.stdout) == (0, True), done.output
    assert json.loads((tmp_path / "changes" / "regression.json").read_text())["old"]["run"] == at
    done = call("leaderboard", "diff", at, "source")
    assert (done.exit_code, f"A  {at}\n" in done.stdout) == (0, True), done.output
    added = ("leaderboard", "add", at, "--by", "me", "--hardware", "a machine")
    assert call(*added).stdout.count("submitted ") == 3
    assert f"{at}: 3 results were there already" in call(*added).stdout


def test_a_report_of_a_run_at_a_url_is_written_here(call, at, tmp_path, monkeypatch):
    refused = call("report", at)
    assert (refused.exit_code, f"{at}: is only read; name" in refused.output) == (3, True)
    rendered = []

    def render(folder, to):
        rendered.append((folder.root_hash, to))
        return to / "report.md"

    monkeypatch.setattr("dsmoe_eval.reports.render", render)
    done = call("report", at, "--report-to", "report")
    assert (done.exit_code, done.stdout) == (0, "report\n"), done.output
    assert call("report", "source").stdout == "source/report\n"
    root_hash = RunFolder(tmp_path / "source").root_hash
    assert rendered == [(root_hash, Path("report")), (root_hash, Path("source/report"))]


def test_pages_at_a_url_are_shown_by_it(call, at, tmp_path):
    done = call("view", at)
    assert (done.exit_code, f"{at}: holds no report" in done.output) == (3, True)
    write_bytes(tmp_path / "source" / "report" / "index.html", b"<title>one</title>")
    assert "copied 1 of" in call("copy", "source", at).stdout
    site = open_site(local_copy(at, Console(quiet=True)), tmp_path / "viewer")
    assert site.pages == (("one", "report/index.html"),)
    assert f"<h1>{at}</h1>" in _index(site)


def test_a_damaged_run_at_a_url_is_named_by_it(call, at, tmp_path):
    cell = next(path for path in (tmp_path / "bucket").rglob("cell.json"))
    cell.write_bytes(bytes(len(cell.read_bytes())))
    name = cell.relative_to(tmp_path / "bucket" / "run").as_posix()
    done = call("gate", at, "--policy", "default", "--out", "gate")
    assert done.exit_code == 3
    assert f"dsmoe-eval: {at}/{name}: is not the file that was copied there" in done.stderr
    assert not (tmp_path / "gate").exists()


def test_no_credentials_are_shown(call):
    for text in (f"s3://key:{HIDDEN}@b/run", f"s3://key:{HIDDEN}/x@b/run", f"gs://b/r?s={HIDDEN}"):
        for command in (("copy", text, "x"), ("copy", "x", text), ("compare", text, f"{text}:base"),
                        ("gate", text, "--policy", "default"), ("view", text)):  # fmt: skip
            done = call(*command, level="debug")
            assert (done.exit_code, HIDDEN in done.output) == (3, False), command


def test_an_interrupted_copy_says_that_it_goes_on(call, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    write_bytes(tmp_path / "report" / "index.html", b"<p>")
    monkeypatch.setattr("dsmoe_eval.storage.remote.Remote.sizes", interrupted)
    done = call("copy", "report", f"file://{tmp_path}/bucket")
    assert done.exit_code == 130
    assert "start the same command again to go on" in done.stderr
    assert not (tmp_path / "bucket" / COPY).exists()

"""The report says what `comparisons.json` says, whatever came out."""

import copy
import io
import itertools
import json
import re
import shutil

import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_json
from dsmoe_eval.reports import render, tables
from dsmoe_eval.results import RunFolder
from dsmoe_eval.runs import run


@pytest.fixture
def result(folder):
    return json.loads(folder.comparisons.read_text())


def test_pages_and_pictures(folder):
    page = render(folder)
    files = {path.name for path in page.parent.iterdir()}
    pictures = {"forest.png", "tradeoff.png", "experts.png", "routing.png"}
    assert files == {"index.html", "report.md", "items", *pictures}
    html = (page.parent / "index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', html)
    assert len(sources) == 3  # the forest is drawn in the page
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r'(src|href)="(https?:)?//', html)
    words = re.search(r'alt="(Heat maps[^"]+)"', html)[1]
    assert re.search(r"method risk-difference: .*physics layer \d+ expert \d+ \(", words)
    for text in (html, page.read_text()):
        assert "What this does not show" in text
        assert "not a result" in text  # it was limited


@pytest.mark.slow
def test_the_same_run_gives_the_same_report(folder, tmp_path):
    one, two = render(folder, tmp_path / "a").parent, render(folder, tmp_path / "b").parent
    paths = [path for path in one.rglob("*") if path.is_file()]
    assert len(paths) > 12
    for path in paths:
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name


def test_every_markdown_table_is_square(folder, tmp_path):
    lines = render(folder, tmp_path).read_text().splitlines()
    tables_found = [line for line in lines if line.startswith("|")]
    assert len(tables_found) > 20
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


def _with(result, variant, **figures):
    changed = copy.deepcopy(result)
    for arm in changed["arms"]:
        if arm["variant"] == variant:
            arm["target_result"] |= figures
    return changed


def test_a_gain_a_loss_and_neither_are_told_apart(result):
    gain = _with(result, "contrast", delta=0.2, p_adjusted=0.01)
    loss = _with(result, "contrast", delta=-0.2, p_adjusted=0.01)
    none = _with(result, "contrast", delta=0.2, p_adjusted=0.051)
    for changed, words, mark in (
        (gain, "improves 2 of 2 targets (math, physics);", "▲"),
        (loss, "harms 2 of 2 targets", "▼"),
        (none, "improves 0 of 2 targets;", None),
    ):
        (finding,) = [s for s in tables.findings(changed) if s.startswith("contrast ")]
        assert words in finding
        (row,) = [row for row in tables.leaderboard(changed).rows if row[0] == "contrast"]
        assert [cell[-1] in "▲▼" for cell in row[1:3]] == [mark is not None] * 2
        assert mark is None or row[1].endswith(mark)


def test_claims_of_every_arm_that_makes_some(result):
    grid = tables.generalization(result)
    rows = [dict(zip(grid.header, row, strict=True)) for row in grid.rows]
    assert [(row["variant"], row["target"]) for row in rows] == [
        (arm["variant"], arm["target"]) for arm in result["arms"] if arm["variant"] != "sham"
    ]
    for row in rows:
        assert (row["beyond placebo"] == "no control") == (row["variant"] == "random")
        assert row["beyond wrong domain"] == "no control"
    arm = next(a for a in result["arms"] if a["variant"] == "contrast")
    placebo = next(a for a in result["arms"] if a["variant"] == "random")
    gains = [a["target_result"]["delta"] for a in (arm, placebo)]
    over = arm["generalization"]["over_placebo"]
    assert over["delta"] == pytest.approx(gains[0] - gains[1])
    assert rows[0]["beyond placebo"].endswith(f", {over['claim']['verdict']}")


def test_a_gain_of_format_is_called_one(result):
    told = {"n": 40, "both_whole": {"n": 30, "delta": 0.01}}
    told |= {side: {"mean_tokens": 9.0, "truncated": 0.1, "invalid": 0.2} for side in "ab"}
    gain = _with(result, "contrast", n=40, delta=0.2, p_adjusted=0.01, answers=told)
    words = [s for s in tables.findings(gain) if "a gain of format or length" in s]
    assert len(words) == 2
    assert "+20.0 pp over all 40 items, and +1.0 pp over the 30 that" in words[0]
    told["both_whole"]["delta"] = 0.15
    assert not tables.format_gains(gain)
    rows = [row for row in tables.answers(gain).rows if row[:3] == ("contrast", "math", "target")]
    assert rows[0][3:] == (
        "40", "9.0 to 9.0", "10.0% to 10.0%", "20.0% to 20.0%", "+20.0 pp", "30", "+15.0 pp"
    )  # fmt: skip


def test_answers_that_could_not_be_read_are_told_first():
    def row(domain, **answers):
        return {"domain": domain, "answers": answers or None}

    base = [
        row("math", invalid=0.2, truncated=0.51),
        row("physics", invalid=1.0, truncated=0.0),
        row("law", invalid=0.5, truncated=0.5),
        row("history"),
    ]
    (told,) = tables.unread_answers({"base": base})
    assert "finds: math (51%), physics (100%). Scores" in told
    assert not tables.unread_answers({"base": base[2:]})


def test_a_sham_that_differs_is_shouted(result):
    changed = copy.deepcopy(result)
    next(arm for arm in changed["arms"] if arm["variant"] == "sham")["equal_to_base"] = False
    (finding,) = [s for s in tables.findings(changed) if s.startswith("sham ")]
    assert "1 of 2 arms" in finding
    assert "MUST" in finding


def test_text_is_shown_as_text(folder, result, tmp_path):
    """What comes from outside, such as a plan's name, is never markup."""
    other = RunFolder(tmp_path / "run")
    for path in ("identification.json", "run.json"):
        write_json(other.root / path, json.loads((folder.root / path).read_text()))
    result["run"]["model"] = "<script>alert(1)</script>"
    write_json(other.comparisons, result)
    shutil.copytree(folder.root / "cells", other.root / "cells")
    html = (render(other).parent / "index.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_disjoint_splits_are_said_to_be_so(folder, result, tmp_path):
    assert result["leakage"]["allowed_by"] is None
    page = render(folder, tmp_path)
    for text in (page.read_text(), (tmp_path / "index.html").read_text()):
        assert "Of 42 identification, 66 tuning, 66 test items: no item repeats one" in text
        assert "WARNING" not in text
        assert 'class="overlap"' not in text


@pytest.fixture(scope="module")
def overlapping(one_split_plan, tmp_path_factory):
    console = Console(record=True, width=200, file=io.StringIO())
    out = tmp_path_factory.mktemp("runs") / "overlapping"
    plan = one_split_plan(overlap="paper")
    return run(plan, out, limit=6, device="cpu", console=console), console.export_text()


def test_an_overlap_that_was_asked_for_is_shouted(overlapping, tmp_path):
    """The paper's own set-up: one split for everything, asked for by name."""
    folder, shown = overlapping
    words = "30 of 30 test items repeat items of the tuning split"
    assert "overlap: paper: 18 of 30" in shown
    leakage = json.loads(folder.comparisons.read_text())["leakage"]
    assert leakage["allowed_by"] == "overlap: paper"
    assert leakage["pairs"] == len(leakage["items"])
    page = render(folder, tmp_path).read_text()
    title, warning, *_ = [line for line in page.splitlines() if line]
    assert title.startswith("# ")
    assert warning.startswith(
        "> **WARNING. The splits overlap, as this plan asks (overlap: paper, "
    )
    assert words in warning
    assert warning.endswith("nothing here is evidence of generalisation to new questions.**")
    html = (tmp_path / "index.html").read_text()
    red = html.index('<p class="overlap">The splits overlap')
    assert html.index("<h1>") < red < html.index("<table ")
    assert words in html[red:]
    assert ".overlap { background: #b00020" in html


def test_what_another_version_made_has_no_report(result, tmp_path):
    result["schema_version"] = 1
    write_json(RunFolder(tmp_path).comparisons, result)
    with pytest.raises(UserError, match="is of another version"):
        render(RunFolder(tmp_path))


def test_an_overlap_that_spares_the_test_split_says_what_it_spoils(result):
    assert tables.overlap_warning(result) == ""
    result["leakage"]["items"] = [{"split": "tuning", "other_split": "identification"}]
    result["leakage"] |= {"pairs": 1, "allowed_by": "overlap: paper"}
    warning = tables.overlap_warning(result)
    assert "1 of 66 tuning items repeat items of the identification split. No test item" in warning
    assert "generalise" in warning


def test_an_unfinished_run_has_no_report(tmp_path):
    with pytest.raises(UserError, match=r"no comparisons\.json"):
        render(RunFolder(tmp_path))


def test_what_an_engine_does_not_show_is_a_dash(folder, tmp_path):
    """vLLM's probe has no weights, and of a compiled model no routing."""
    copied = RunFolder(shutil.copytree(folder.root, tmp_path / "copy"))
    for path in copied.root.glob("cells/*/cell.json"):
        cell = json.loads(path.read_text())
        if cell["probe"] is not None:
            cell["probe"] |= {"selection_changed": None, "active_experts": None}
            del cell["probe"]["weight_max_change"]
            path.write_text(json.dumps(cell))
    page = render(copied, tmp_path / "report").read_text()
    assert re.search(r"\| contrast \| math \| 0 \| - \| - \| \d+\.\d\d \| - \|", page)

"""The report says what `comparisons.json` says, whatever came out."""

import io
import itertools
import json
import re
import shutil

import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_json
from dsmoe_eval.reports import render
from dsmoe_eval.results import RunFolder
from dsmoe_eval.runs import run

from ..recorded import record


@pytest.fixture(scope="module")
def page(folder):
    """The report of the small run; only read."""
    return render(folder)


def test_pages_and_pictures(page):
    files = {path.name for path in page.parent.iterdir()}
    pictures = {"forest.png", "base.png", "tradeoff.png", "experts.png", "routing.png"}
    pictures |= {f"forest-gold_logprob-{part}.png" for part in ("target", "non-targets")}
    assert files == {"index.html", "report.md", "items", *pictures}
    html = (page.parent / "index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', html)
    assert len(sources) == 4  # the forest is drawn in the page
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


def test_every_markdown_table_is_square(page):
    lines = page.read_text().splitlines()
    tables_found = [line for line in lines if line.startswith("|")]
    assert len(tables_found) > 20
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


def test_text_is_shown_as_text(folder, tmp_path):
    """What comes from outside, such as a plan's name, is never markup."""
    other = RunFolder(tmp_path / "run")
    other.root.mkdir()
    for path in ("identification.json", "run.json", "plan.yaml"):
        shutil.copy(folder.root / path, other.root / path)
    result = json.loads(folder.comparisons.read_text())
    result["run"]["model"] = "<script>alert(1)</script>"
    write_json(other.comparisons, result)
    shutil.copytree(folder.root / "cells", other.root / "cells")
    record(other.root)
    html = (render(other).parent / "index.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.full
@pytest.mark.parametrize("units", [None, "neurons"])
def test_a_report_on_other_units_differs_by_their_words_only(folder, page, tmp_path, units):
    """Without the key the pages come out byte for byte."""
    other = RunFolder(shutil.copytree(folder.root, tmp_path / "run"))
    known = json.loads(folder.identification.read_text())
    more = {} if units is None else {"units": units, "column": 1}
    write_json(other.identification, known | more)
    record(other.root)
    made = render(other, tmp_path / "page")
    assert {path.name for path in made.parent.iterdir()} == {p.name for p in page.parent.iterdir()}
    for name in ("report.md", "index.html"):
        before, after = (one.with_name(name).read_text() for one in (page, made))
        if units is None:
            assert after == before.replace(folder.root_hash, other.root_hash)
            continue
        assert len(after.splitlines()) == len(before.splitlines()) + 1
        prose = re.sub(r"<(script|style).*?</\1>|data:[^\"]*|`[^`\n]*`", "", after, flags=re.DOTALL)
        assert "routing.png" in after or name == "index.html"
        assert re.findall(r"\b(?:experts?|routers?|routing)\b(?!\.png)", prose, re.I) == []
    for path in page.parent.rglob("*.png") if units is None else ():
        assert path.read_bytes() == (made.parent / path.relative_to(page.parent)).read_bytes()


def test_disjoint_splits_are_said_to_be_so(page, result):
    assert result.leakage.allowed_by is None
    for text in (page.read_text(), (page.parent / "index.html").read_text()):
        assert "Of 42 identification, 54 tuning, 54 test items: no item repeats one" in text
        assert "WARNING" not in text
        assert 'class="overlap"' not in text


@pytest.fixture(scope="module")
def overlapping(one_split_plan, tmp_path_factory):
    console = Console(record=True, width=200, file=io.StringIO())
    out = tmp_path_factory.mktemp("runs") / "overlapping"
    plan = one_split_plan(allow_leakage=True)
    return run(plan, out, limit=6, device="cpu", console=console), console.export_text()


def test_an_overlap_that_was_asked_for_is_shouted(overlapping, tmp_path):
    """The paper's own set-up: one split for everything, asked for by name."""
    folder, shown = overlapping
    words = "18 of 18 test items repeat items of the tuning split"
    assert "allow_leakage: true: 12 of 18" in shown
    leakage = json.loads(folder.comparisons.read_text())["leakage"]
    assert leakage["allowed_by"] == "allow_leakage: true"
    assert leakage["pairs"] == len(leakage["items"])
    page = render(folder, tmp_path).read_text()
    title, warning, *_ = [line for line in page.splitlines() if line]
    assert title.startswith("# ")
    assert warning.startswith(
        "> **WARNING. The splits overlap, as this plan asks (allow_leakage: true, "
    )
    assert words in warning
    assert warning.endswith("nothing here is evidence of generalisation to new questions.**")
    html = (tmp_path / "index.html").read_text()
    red = html.index('<p class="overlap">The splits overlap')
    assert html.index("<h1>") < red < html.index("<table ")
    assert words in html[red:]
    assert ".overlap { background: #b00020" in html


def test_what_another_version_made_has_no_report(folder, tmp_path):
    result = json.loads(folder.comparisons.read_text()) | {"schema_version": 1}
    write_json(RunFolder(tmp_path).comparisons, result)
    with pytest.raises(UserError, match="is of another version"):
        render(RunFolder(tmp_path))


def test_an_unfinished_run_has_no_report(tmp_path):
    with pytest.raises(UserError, match=r"no comparisons\.json"):
        render(RunFolder(tmp_path))


def test_what_an_engine_does_not_show_is_a_dash(folder, tmp_path):
    """vLLM's probe has no weights, and of a compiled model no routing."""
    copied = RunFolder(shutil.copytree(folder.root, tmp_path / "copy"))
    result = json.loads(copied.comparisons.read_text())
    for arm in result["arms"]:
        arm["probe"] |= {"selection_changed": None, "active_experts": None}
        del arm["probe"]["weight_max_change"]
    write_json(copied.comparisons, result)
    record(copied.root)
    page = render(copied, tmp_path / "report").read_text()
    assert re.search(r"\| contrast \| math \| 0 \| - \| - \| \d+\.\d\d \| - \|", page)


def test_case_09_the_root_hash_is_in_the_report(folder, tmp_path):
    page = render(folder, tmp_path)
    for text in (page.read_text(), (tmp_path / "index.html").read_text()):
        assert folder.root_hash in text


@pytest.mark.parametrize("name", ["tuning", "routing", "identification.json"])
def test_case_09_what_pictures_are_drawn_from_is_checked(folder, tmp_path, name):
    copied = RunFolder(shutil.copytree(folder.root, tmp_path / "copy"))
    path = next(copied.root.glob(f"{name}/*"), copied.root / name)
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(UserError, match=f"{path.name}: is not the file of the run's"):
        render(copied)


def test_case_24_sharing_that_was_switched_off_is_in_the_report(folder, tmp_path):
    copied = RunFolder(shutil.copytree(folder.root, tmp_path / "copy"))
    assert "computed once until" not in render(copied, tmp_path / "report").read_text()
    check = {"what": "log-likelihoods", "tasks": ["lab_math_named", "lab_law_named"]}
    off = {"agrees": False, "difference": 0.000105, "tolerance": 0.0001}
    failed = {"agrees": False, "difference": None, "tolerance": None}
    for path in copied.root.glob("cells/*/cell.json"):
        cell = json.loads(path.read_text())
        assert cell["sharing"]  # every process compares
        assert all(one["agrees"] for one in cell["sharing"])
        write_json(path, cell | {"sharing": [*cell["sharing"], check | off, check | failed]})
    record(copied.root)
    text = render(copied, tmp_path / "report").read_text()
    words = "computed once until lab_math_named, lab_law_named, where log-likelihoods"
    assert text.count(f"{words} differed by 0.000105 (tolerance 0.0001) from those of whole") == 1
    assert text.count(f"{words} could not be computed so; from there on each text") == 1

"""Pages in a real Chromium, opened from disk: they work, are quiet, and ask nobody for anything."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from playwright.sync_api import expect

from dsmoe_eval.reports import page, render, write_item_files
from dsmoe_eval.reports.formats import pp
from dsmoe_eval.reports.page import Forest, Interval, Plane, Point
from dsmoe_eval.reports.table import Cell, Column, Row, Table, collect_facets

PARTS = """{% import 'page.html.j2' as page %}
<!doctype html><html lang="en"><head>{{ page.head("Parts") }}</head><body>
{{ page.theme_toggle() }}<h1>Parts</h1>{{ page.filters(facets) }}{{ page.data_table(table) }}
{{ page.forest(forest) }}{{ page.plane(plane) }}{{ page.explorer(files) }}{{ page.foot() }}
</body></html>"""
HOSTILE = (
    "<script>window.broken = 1</script>",
    "</td></pre></script><img src=x onerror='window.broken = 2'>",
    "z" * 100_000,
)


def _facets(k):
    return {
        "variant": (f"v{k % 20}",),
        "domain": ("math" if k % 2 else "law",),
        "mark": ("non-inferior",),
    }


def _rows(n):
    """Values of -n/2, -n/2 + 1 ... in an order of their own."""
    return [(f"row {k}", ((k * 7919) % n - n // 2) / n, _facets(k)) for k in range(n)]


def _row(name, value, facets, columns):
    trace = f"comparisons.json: arms[{name}, math].c{{}}; mid-p McNemar"
    cells = (Cell(value, pp, trace.format(k), "good") for k in range(columns))
    return Row((Cell(name), *cells), facets)


def _parts(n=20, columns=1):
    heads = (Column("name"), *(Column(f"c{k}", True, "Helps") for k in range(columns)))
    rows = [_row(*row, columns) for row in _rows(n)]
    rows.append(
        Row((Cell("none"), *(Cell("-") for _ in range(columns))), {"mark": ("non-inferior",)})
    )
    table = Table("t", "Caption", heads, tuple(rows))
    forest = Forest("f", "A forest.", "", "pp", tuple(
        Interval(name, value, value - 0.1, value + 0.1, 9, f"a.json: {name}", "", "", facets)
        for name, value, facets in _rows(n)
    ), 0.02)  # fmt: skip
    plane = Plane("p", "A plane.", "", "x", "y", tuple(
        Point(name, value, -value, value, value, -value, -value, f"a.json: {name}",
              facets["variant"][0], facets=facets)
        for name, value, facets in _rows(n)
    ), 0.02)  # fmt: skip
    facets = collect_facets(facets for _, _, facets in _rows(n))
    return {"table": table, "forest": forest, "plane": plane, "facets": facets}


def _write(to, files=(), **parts):
    html = page.html_environment().from_string(PARTS).render(_parts(**parts) | {"files": files})
    to.mkdir(exist_ok=True)
    (to / "index.html").write_text(html)
    return to / "index.html"


@pytest.fixture(scope="module")
def parts(make_run, tmp_path_factory):
    """A page of every part, with items of choices and of hostile generated texts."""
    to = tmp_path_factory.mktemp("parts")
    questions = [f"What is {k}? {HOSTILE[k % 2]}" for k in range(150)]
    tasks = {"mc": (questions, []), "gen": (questions[:9], ["right", *HOSTILE]),
             "../<b>" + "long" * 40: (["Q"], [])}  # fmt: skip
    folder, result = make_run(to / "run", tasks, 3)
    return _write(
        to / "page", write_item_files(folder, result.base, result.arms, to / "page", "made-up")
    )


def _column(watched, row="tbody tr:visible"):
    return [
        float(text.split()[0]) for text in watched[f"{row} td"].all_inner_texts() if text != "-"
    ]


def test_sorting(opened, parts):
    watched = opened(parts)
    before, button = _column(watched), watched["#t thead button"].nth(1)
    head = watched["#t thead th"].nth(1)
    for state, expected in (
        ("descending", sorted(before, reverse=True)), ("ascending", sorted(before)), (None, before)
    ):  # fmt: skip
        button.click()
        assert head.get_attribute("aria-sort") == state
        assert _column(watched) == expected
        assert watched["#t tbody th"].last.inner_text() == "none"  # no number comes last
    watched["#t thead button"].first.focus()
    watched.tab.keyboard.press("Enter")
    names = watched["#t tbody th"].all_inner_texts()
    assert names[:4] == ["none", "row 0", "row 1", "row 2"]
    assert names[-1] == "row 19"


def test_filtering(opened, parts):
    watched = opened(parts)
    rows, tick = watched["#t tbody tr:visible"], watched.tab.get_by_label
    expect(rows).to_have_count(21)
    tick("math", exact=True).check()
    expect(rows).to_have_count(11)  # ten, and the one that has no domain
    assert watched["#f li.row:not(.off)"].count() == 10
    assert watched["#p .point:not(.off)"].count() == 10
    assert watched["#filtered"].inner_text() == "11 of 21 rows shown"
    tick("v3", exact=True).check()
    tick("v4", exact=True).check()
    assert watched["#t tbody tr:visible th"].all_inner_texts() == ["row 3", "none"]
    watched["#filters button"].click()
    expect(watched["#filtered"]).to_have_text("")
    expect(rows).to_have_count(21)


def test_traces_by_mouse_and_by_keyboard(opened, parts):
    watched = opened(parts)
    trace, words = watched["#trace"], "comparisons.json: arms[row {}, math].c0; mid-p McNemar"
    assert not trace.is_visible()
    first, second = (watched["#t tbody td"].nth(k) for k in (0, 1))
    first.hover()
    assert first.get_attribute("title") == words.format(0)
    first.click()
    assert trace.is_visible()
    assert words.format(0) in trace.inner_text()
    watched.tab.keyboard.press("Escape")
    assert not trace.is_visible()
    watched["#t tbody [tabindex='0']"].focus()
    watched.tab.keyboard.press("ArrowDown")
    assert second.evaluate("cell => cell === document.activeElement")
    watched.tab.keyboard.press("Enter")
    assert words.format(1) in trace.inner_text()
    watched["#f .value"].nth(2).click()
    assert "a.json: row 2" in trace.inner_text()
    watched["#p .point"].first.focus()
    watched.tab.keyboard.press("ArrowRight")
    watched.tab.keyboard.press("Enter")
    assert "a.json: row 1" in trace.inner_text()
    assert "a.json: row 4" in watched["#f svg title"].nth(4).text_content()  # the hover text


def test_dark_and_light(opened, parts):
    watched = opened(parts, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = watched.tab.evaluate(paper)
    watched["#theme"].click()
    dark = watched.tab.evaluate(paper)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(22, 24, 27)")
    watched.tab.reload()
    assert watched.tab.evaluate(paper) == dark  # remembered
    watched["#theme"].focus()
    watched.tab.keyboard.press("Space")
    assert watched.tab.evaluate(paper) == light
    assert opened(parts, color_scheme="dark").tab.evaluate(paper) in (light, dark)


def _come_to_items(watched, task="mc"):
    watched["#explorer"].scroll_into_view_if_needed()
    watched["#explorer-list li"].first.wait_for()
    if task != "mc":
        watched["#explorer-task"].select_option(task)
        link = re.compile(re.escape(f"/{quote(task, safe='')}/"))
        expect(watched["#explorer-list a"].first).to_have_attribute("href", link)


def test_items_are_found_and_opened(opened, parts):
    watched = opened(parts)
    assert not any("/items/" in url for url in watched.asked)  # on demand
    _come_to_items(watched)
    rows = watched["#explorer-list li"]
    expect(rows).to_have_count(100)
    watched["#explorer-more"].click()
    expect(rows).to_have_count(150)
    expect(watched["#explorer-more"]).to_be_hidden()
    counts = {}
    for show in ("gained", "lost", "changed", "wrong", "right"):
        watched["#explorer-show"].select_option(show)
        counts[show] = int(watched["#explorer-status"].inner_text().split()[0])
    cells = _cells(parts.parent.parent / "run", "cell-0-0", "cell-1-0")
    base, own = cells["score_a"], cells["score_b"]
    assert counts == {
        "gained": (own > base).sum(), "lost": (own < base).sum(),
        "changed": (cells["answer_a"] != cells["answer_b"]).sum(),
        "wrong": ((own == 0) & (base == 0)).sum(), "right": ((own == 1) & (base == 1)).sum(),
    }  # fmt: skip
    watched["#explorer-show"].select_option("gained")
    watched["#explorer-search"].fill("c OF")  # every option list has one
    expect(rows).to_have_count(counts["gained"])
    rows.locator("a").first.focus()
    watched.tab.keyboard.press("Enter")
    watched[".answer"].first.wait_for()
    assert watched["#item .options li"].nth(1).inner_text().endswith("✓ gold")
    answers = watched[".answer"].all_inner_texts()
    assert len(answers) == 4
    assert answers[0].startswith("base: wrong; answer: ")
    assert answers[1].startswith("v1 on math: right, gained; answer: B of ")
    assert "cells/cell-1-0/samples.parquet" in answers[1]
    expect(watched.tab).to_have_url(re.compile("#item=made-up/mc/item"))
    title = watched["#item-title"].inner_text()
    watched["#item-after"].click()
    expect(watched["#item-title"]).not_to_have_text(title)
    watched.tab.keyboard.press("Escape")
    expect(watched["#item"]).to_be_hidden()
    expect(watched.tab).not_to_have_url(re.compile("#"))


def _cells(root, *names):
    one, two = (pd.read_parquet(root / "cells" / name / "samples.parquet") for name in names)
    return one.merge(two, on="item", suffixes=("_a", "_b"))


def test_a_link_leads_to_an_item_and_its_hostile_answers_are_text(opened, parts):
    watched = opened(parts.as_uri() + "#item=made-up/gen/item00003", width=390)
    watched[".answer"].nth(3).wait_for()
    assert watched["#item-title"].inner_text() == "gen, item item00003"
    assert watched["#item pre"].first.text_content() == f"What is 3? {HOSTILE[1]}"
    run = parts.parent.parent / "run"
    for arm in range(4):
        rows = pd.read_parquet(run / f"cells/cell-{arm}-1/samples.parquet").set_index("item")
        texts = watched[".answer"].nth(arm).locator("pre").all_text_contents()
        assert texts == list(rows.loc["item00003", "texts"])
    assert watched["#item img, #item script"].count() == 0
    tall = watched["#item pre"].evaluate_all(
        "all => Math.max(...all.map((one) => one.clientHeight))"
    )
    assert tall <= 320  # a long line scrolls in its own box
    wide, room = watched["#item"].evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert wide <= room


def test_every_hostile_text_was_shown(parts):
    """What the test above relies on."""
    files = [path.read_text() for path in (parts.parent / "items").glob("gen-*-0.js")]
    assert len(files) == 1
    for text in HOSTILE:
        assert text.replace("<", "\\u003c") in files[0]


def test_names_that_are_paths_or_markup(opened, parts):
    watched = opened(parts)
    task = "../<b>" + "long" * 40
    _come_to_items(watched, task)
    watched["#explorer-list a"].click()
    watched[".answer"].first.wait_for()
    assert watched["#item-title"].inner_text() == f"{task}, item item00000"


def test_a_link_to_nothing_says_so(opened, parts):
    watched = opened(parts.as_uri() + "#item=made-up/mc/nothing")
    watched["#explorer-status"].get_by_text("There is no item nothing of task mc").wait_for()


def test_without_its_items_the_page_says_what_is_missing(opened, parts, tmp_path):
    alone = shutil.copy(parts, tmp_path / "index.html")
    watched = opened(Path(alone), check=False)  # Chromium itself says that a file is missing
    watched["#explorer"].scroll_into_view_if_needed()
    said = watched["#explorer-status"]
    said.get_by_text(re.compile(r"items/mc-\w+\.js is missing; .dsmoe-eval report RUN")).wait_for()
    assert watched["#t tbody tr:visible"].count() == 21
    assert all("ERR_FILE_NOT_FOUND" in text for text in watched.said)


def test_items_of_another_report_are_refused(opened, parts, tmp_path):
    shutil.copytree(parts.parent, tmp_path / "p")
    for path in (tmp_path / "p" / "items").iterdir():
        path.write_text(path.read_text().replace("What is 3", "What is 4"))
        text = path.read_text()
        path.write_text(text[:-68] + "0" * 64 + text[-4:])
    watched = opened(tmp_path / "p" / "index.html")
    watched["#explorer"].scroll_into_view_if_needed()
    watched["#explorer-status"].get_by_text("belongs to another report").wait_for()


def test_it_can_be_read_without_javascript(opened, parts):
    watched = opened(parts, java_script_enabled=False, check=False)
    assert watched["#t tbody tr:visible"].count() == 21
    assert watched["noscript"].count() == 1


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    return render(folder, tmp_path_factory.mktemp("report")).parent / "index.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_of_a_run(opened, report, width):
    assert report.stat().st_size < 5_000_000
    watched = opened(report, width=width)
    tables = watched["table.data"]
    assert tables.count() >= 6
    watched["#leaderboard thead button"].nth(1).click()
    _come_to_items(watched, "lab_arithmetic")
    watched["#explorer-list a"].first.click()
    watched[".answer pre"].first.wait_for()
    assert watched["img"].count() == 4
    assert all(watched["img"].evaluate_all("all => all.map((one) => one.naturalWidth > 0)"))


@pytest.mark.slow
def test_a_large_page_opens_and_answers_at_once(opened, make_run, tmp_path, record_property):
    """12,000 items, 20 variants on 10 targets; the bounds are wide, what it took is recorded."""
    tasks = {"mc": ([f"Question {k}, {'some words ' * 30}" for k in range(12_000)], [])}
    folder, result = make_run(tmp_path / "run", tasks, 5)
    arms = [arm.model_copy(update={"variant": f"w{k}"}) for k, arm in enumerate(4 * result.arms)]
    start = time.perf_counter()
    files = write_item_files(folder, result.base, arms, tmp_path / "page", "made-up")
    path = _write(tmp_path / "page", files, n=200, columns=17)
    built, size = time.perf_counter() - start, path.stat().st_size
    assert size < 5_000_000
    watched = opened(path)
    entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    shown = watched.tab.evaluate(entry) / 1000
    start = time.perf_counter()
    watched["#explorer"].scroll_into_view_if_needed()
    watched["#explorer-status"].get_by_text("12000 of 12000 items").wait_for()
    loaded, start = time.perf_counter() - start, time.perf_counter()
    watched["#explorer-search"].fill("question 11999")
    watched["#explorer-status"].get_by_text("1 of 12000 items").wait_for()
    searched, start = time.perf_counter() - start, time.perf_counter()
    watched["#t thead button"].nth(3).click()
    watched["#t th[aria-sort]"].wait_for()
    ordered = time.perf_counter() - start
    figures = {"built": built, "shown": shown, "items": loaded, "search": searched, "sort": ordered}
    record_property("seconds", {name: round(value, 2) for name, value in figures.items()})
    assert shown < 10
    assert max(loaded, searched, ordered) < 10

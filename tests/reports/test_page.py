"""The parts of a page: what they hold is shown as text, and found again where it belongs."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsmoe_eval.reports import page
from dsmoe_eval.reports.page import Forest, Interval, ItemFile, Plane, Point, Scale
from dsmoe_eval.reports.table import Cell, Column, Row, Table

HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
PARTS = """{% import 'page.html.j2' as page %}
<!doctype html><html lang="en"><head>{{ page.head(title) }}</head><body>{{ page.theme_toggle() }}
{{ page.filters(facets) }}{% for t in tables %}{{ page.data_table(t) }}{% endfor %}
{% for f in forests %}{{ page.forest(f) }}{% endfor %}
{% for p in planes %}{{ page.plane(p) }}{% endfor %}
{{ page.explorer(files) }}{{ page.foot() }}</body></html>"""


class Parsed(HTMLParser):
    """What a browser would find, near enough: elements with their attributes, and their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(len(self.elements) - 1)
        self.texts[self._open[-1]] = ""

    def handle_endtag(self, tag):
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data):
        for place in self._open:
            self.texts[place] += data

    def all(self, *tags):
        return [
            (attrs, self.texts[place])
            for place, (tag, attrs) in enumerate(self.elements)
            if tag in tags
        ]


def rendered(**parts):
    empty = dict.fromkeys(("tables", "forests", "planes", "files"), ())
    values = {"title": "A page", "facets": {}} | empty | parts
    return page.html_environment().from_string(PARTS).render(values)


def table(texts, name="t", traces=("",) * 9):
    cells = tuple(Cell(text, source=trace) for text, trace in zip(texts, traces, strict=False))
    return Table(name, "caption", tuple(Column(f"c{k}") for k in range(len(cells))),
                     (Row(cells, {"variant": (texts[0],)}),))  # fmt: skip


fractions = st.floats(-1, 1, allow_nan=False)


@given(st.lists(fractions))
def test_a_scale_holds_zero_and_everything_else(values):
    scale = Scale.of(values)
    assert 0 in scale.ticks
    assert 2 <= len(scale.ticks) <= 9
    assert (scale.low, scale.high) == (scale.ticks[0], scale.ticks[-1])
    assert list(scale.ticks) == sorted(set(scale.ticks))
    for value in values:
        assert scale.low - 1e-6 <= 100 * value <= scale.high + 1e-6
        across, down = float(scale.place(value)[:-1]), float(scale.height(100 * value)[:-1])
        assert across + down == pytest.approx(100, abs=0.011)
        expected = 100 * (100 * value - scale.low) / (scale.high - scale.low)
        assert across == pytest.approx(expected, abs=0.0051)


@settings(max_examples=10)  # each renders a page
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_cells_and_traces_come_back_as_they_were(cells):
    # A parser makes \n of \r and drops NUL; what the page shows of these is not our matter.
    cells = [tuple(re.sub("[\r\0\ud800-\udfff]", "", part) for part in cell) for cell in cells]
    texts, traces = zip(*cells, strict=True)
    parsed = Parsed(rendered(tables=[table(texts, traces=traces)]))
    shown = [(a, text) for a, text in parsed.all("th", "td") if a.get("scope") != "col"]
    assert tuple(text for _, text in shown) == texts
    assert [a.get("data-t", "") for a, _ in shown] == list(traces)


def test_hostile_text_is_text_everywhere():
    facets = {HOSTILE: (HOSTILE, "b")}
    interval = Interval(HOSTILE, 0.1, 0.0, 0.2, 9, HOSTILE, HOSTILE, "", facets)
    point = Point(HOSTILE, *(0.1,) * 6, HOSTILE, HOSTILE, facets=facets)
    column = Column(HOSTILE, help=HOSTILE)
    row = Row((Cell(HOSTILE, source=HOSTILE),), facets)
    text = rendered(
        title=HOSTILE,
        facets=facets,
        tables=[Table("t", HOSTILE, (column,), (row,))],
        forests=[Forest("f", HOSTILE, HOSTILE, HOSTILE, (interval,), 0.02)],
        planes=[Plane("p", HOSTILE, HOSTILE, HOSTILE, HOSTILE, (point,), 0.02)],
        files=[ItemFile("items/a.js", HOSTILE, HOSTILE, HOSTILE, 1, ("base", HOSTILE), "0")],
    )  # fmt: skip
    parsed, plain = Parsed(text), Parsed(rendered())
    assert not parsed.all("img")
    assert len(parsed.all("script")) == len(plain.all("script")) == 2
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)
    assert [text for attrs, text in parsed.all("th") if attrs.get("scope") == "row"] == [HOSTILE]


def test_the_policy_lets_only_our_script_and_style_in():
    text = rendered()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        sha = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{sha}'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_makes_no_markup_of_text_and_asks_for_nothing():
    script, css = page._part("page.js"), page._part("page.css")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "Function(", "fetch(", "XMLHttpRequest", "import(", "http"):  # fmt: skip
        assert word not in script, word
    assert "</" not in script
    assert not re.search(r"url\(|@import|http", css)


def test_what_is_missing_is_an_error():
    with pytest.raises(Exception, match="'nothing' is undefined"):
        page.html_environment().from_string("{{ nothing }}").render()


def test_words_of_figures():
    interval = Interval("a", 0.0312, -0.01, 0.07249, 300, "")
    assert interval.words == "+3.1 [-1.0, +7.2]"
    point = Point("a", -0.01, 0.05, -0.02, 0.0, 0.01, 0.09, "")
    assert point.words == "across -1.0 pp [-2.0, +0.0], up +5.0 pp [+1.0, +9.0]"


def test_a_picture_is_embedded_as_it_is_unless_it_is_large(tmp_path, monkeypatch):
    picture = Image.radial_gradient("L").convert("RGB")
    picture.save(tmp_path / "a.png")
    start = "data:image/png;base64,"
    source = page.embed(tmp_path / "a.png")
    assert base64.b64decode(source.removeprefix(start)) == (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(page, "LARGE_PICTURE", 100)
    content = base64.b64decode(page.embed(tmp_path / "a.png").removeprefix(start))
    with Image.open(io.BytesIO(content)) as again:
        assert (again.mode, again.size) == ("P", picture.size)
        greys = np.asarray(again.convert("L"), int) - np.asarray(picture.convert("L"), int)
        assert np.abs(greys).max() <= 16

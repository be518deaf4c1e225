"""A table keeps its numbers: one value, shown in two forms."""

import re
from pathlib import Path

import pytest

import dsmoe_eval
from dsmoe_eval.reports import formats, page
from dsmoe_eval.reports.table import (
    Cell,
    Column,
    Figure,
    Row,
    Table,
    collect_facets,
    make_table,
    markdown,
    words,
    write_markdown,
)

HTML = "{% import 'page.html.j2' as page %}{{ page.data_table(table) }}"


@pytest.fixture
def table():
    """Changes, one of which nobody measured."""
    figures = (
        words("name", lambda one: one[0]),
        Figure(
            "change", lambda one: one[1], formats.pp, lambda one: f"a.json: {one[0]}", blank="-"
        ),
    )
    subjects = [("a", 0.0314159), ("b", -0.2), ("c", None)]
    made = make_table("t", "Changes", figures, subjects, lambda one: {"name": (one[0],)})
    base = Row((Cell("base"), Cell(0.5, formats.percent)), apart=True)
    return Table(made.id, made.caption, made.columns, (base, *made.rows))


def test_a_row_must_fit_its_table():
    with pytest.raises(ValueError, match="table x: a row has 1 cells"):
        Table("x", "", (Column("a"), Column("b")), (Row((Cell("1"),)),))


def test_markdown_shows_the_texts(table):
    assert markdown(table) == (
        "| name | change |\n| --- | ---: |\n| base | 50.0% |\n| a | +3.1 pp |\n| b | -20.0 pp |\n"
        "| c | - |\n"
    )


def test_html_sorts_by_the_numbers_themselves(table):
    shown = page.html_environment().from_string(HTML).render(table=table)
    for cell in (
        '<td class="num" data-s="0.0314159" data-t="a.json: a">+3.1 pp</td>',
        '<td class="num" data-s="-0.2" data-t="a.json: b">-20.0 pp</td>',
        '<td class="num">-</td>',  # no number, and so no source
        '<td class="num">50.0%</td>',  # of another kind: it comes last
    ):
        assert cell in shown
    assert shown.count("data-s") == 2


@pytest.mark.parametrize(
    ("value", "show", "text", "number"),
    [
        ("words", str, "words", None),
        (3, str, "3", 3),
        ((0.01, -0.02, 0.04), formats.pp_with_interval, "+1.0 pp [-2.0, +4.0]", 0.01),
        ((0.05, "▲"), formats.pp, "+5.0 pp ▲", 0.05),
        (("a", 0.5), "{}: {:.2f}".format, "a: 0.50", None),
    ],
)
def test_what_a_cell_shows_and_is_sorted_by(value, show, text, number):
    cell = Cell(value, show)
    assert (cell.text, cell.number) == (text, number)


def test_facets_are_collected_in_their_order():
    parts = [{"variant": ("b",)}, {"variant": ("a", "b"), "mark": ("x",)}, {}]
    assert collect_facets(parts) == {"variant": ("b", "a"), "mark": ("x",)}


HOSTILE = "<script>alert(1)</script> <img src=x onerror=y> <!-- x --> \x1b[31m | </td> <?x"


def test_case_16_no_html_and_no_control_character_of_the_data_is_left_in_markdown(tmp_path):
    table = make_table("t", HOSTILE, [words(HOSTILE, str)], [HOSTILE, "a\n\nb", "p < 0.05"])
    path = tmp_path / "x.md"
    write_markdown(path, f"# {HOSTILE}\n\n{markdown(table)}\n<!-- entries 0af3 -->\n")
    text = path.read_text()
    assert not re.search(r"<(?![ ]|!-- entries 0af3 -->)", text)
    assert "\x1b" not in text
    assert "&lt;script>alert(1)&lt;/script>" in text
    assert "| a b |" in text
    assert "| p < 0.05 |" in text
    assert "<!-- entries 0af3 -->" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 5
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {2}


def test_case_16_every_markdown_page_is_written_by_that_function():
    for folder in ("reports", "leaderboards"):
        for path in Path(dsmoe_eval.__file__).parent.joinpath(folder).glob("*.py"):
            assert not re.search(r"write_text\([^\n]*(\.md|README|page,)", path.read_text()), path

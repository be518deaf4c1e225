"""Every number of a run's page is found again where its trace says."""

import json
import re

import pytest

from dsmoe_eval.reports import run_page, tables
from dsmoe_eval.reports.render import _probes

TABLES = ("details", "generalization", "settings", "by_domain", "domain_details", "answers")


@pytest.fixture(scope="module")
def result(folder):
    return json.loads(folder.comparisons.read_text())


def _follow(result, trace):
    """What stands where a trace says, and the test that it names."""
    place, _, test = trace.partition("; ")
    variant, target, path = re.fullmatch(
        r"comparisons\.json: arms\[([^,]+), (\w+)\]\.(.+)", place
    ).groups()
    (found,) = (
        arm for arm in result["arms"] if (arm["variant"], arm["target"]) == (variant, target)
    )
    domain = re.match(r"domains\[(\w+)\]\.", path)
    if domain:
        (found,) = (row for row in found["domains"] if row["domain"] == domain[1])
        path = path[domain.end() :]
    named = found.get("test")
    for name in path.split("."):
        found = found[name]
        named = found.get("test", named) if isinstance(found, dict) else named
    return found, test, named


@pytest.mark.parametrize("name", TABLES)
def test_traces_lead_to_the_numbers(result, name):
    table, seen = getattr(run_page, name)(result), 0
    for row in table.rows:
        for cell in row.cells:
            if not cell.trace or " and " in cell.trace or "1 + " in cell.trace:
                continue
            value, test, named = _follow(result, cell.trace)
            assert not test or test == named, cell
            if isinstance(value, float) and cell.sort is not None and not isinstance(value, bool):
                seen += 1
                factor = 100 if "pp" in cell.text or "%" in cell.text else 1
                assert cell.sort == pytest.approx(factor * value, abs=0.051 if factor > 1 else 5e-4)
    assert seen >= len(table.rows)


@pytest.mark.parametrize("name", TABLES)
def test_the_cells_are_those_of_the_grid(result, name):
    table, grid = getattr(run_page, name)(result), getattr(tables, name)(result)
    assert tuple(column.name for column in table.columns) == grid.header
    assert tuple(tuple(cell.text for cell in row.cells) for row in table.rows) == grid.rows


def test_the_leaderboard_leads_to_the_arms(result):
    table = run_page.leaderboard(result)
    assert [row.cells[0].text for row in table.rows] == [
        "base (score)",
        "sham",
        "contrast",
        "random",
    ]
    base, *others = table.rows
    assert {cell.sort for cell in base.cells} == {None}  # scores are not sorted among changes
    assert base.cells[1].trace == "comparisons.json: base[lab_math_unnamed].score"
    for row in others:
        for cell in row.cells[1:3]:
            value, test, named = _follow(result, cell.trace)
            assert cell.sort == pytest.approx(100 * value, abs=0.051)
            assert test == named == "mid-p McNemar"


def test_every_probe_has_its_source(folder, result):
    table = run_page.probes(result, _probes(folder))
    assert len(table.rows) == 6
    assert table.rows[0].cells[2].trace == (
        "cells/*/cell.json of contrast on math: probe.null_max_difference"
    )


def test_rows_are_found_by_what_they_are(result):
    facets = run_page.facets(result)
    assert facets["variant"] == ("sham", "contrast", "random")
    assert facets["domain"][:2] == ("math", "physics")
    assert "law" in facets["domain"]
    for row in run_page.details(result).rows:
        assert row.facets["variant"] == (row.cells[0].text,)
        assert row.facets["domain"] == (row.cells[1].text,)
    for row in run_page.domain_details(result).rows:
        assert row.facets["domain"] == (row.cells[1].text, row.cells[2].text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+3.2 pp ▲", 3.2), ("-1.0 to +3.2", -1.0), ("82.3%", 82.3), ("1,204", 1204.0),
        ("< 0.0001", 0.0001), ("1e-05", 1e-5), ("3 of 4", 3.0), ("-", None), ("", None),
        ("no claim", None), ("3bfa12", None), ("12a", None),
    ],
)  # fmt: skip
def test_numbers_that_cells_begin_with(text, number):
    assert run_page.number_of(text) == number

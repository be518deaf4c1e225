"""Where base is not above guessing or one constant answer, the report says so."""

import pytest

from dsmoe_eval.reports.run_base import base_scores, floor_findings, reading
from dsmoe_eval.reports.run_text import findings
from dsmoe_eval.results.schema import Base


def scored(domain, score, ci95, chance, constant, role="target", n=300):
    return Base(
        task=f"{domain}_task", domain=domain, role=role, cell="0" * 16, n=n, score=score,
        ci95=ci95, version="1" * 16, answers=None, chance=chance, constant=constant,
    )  # fmt: skip


ROWS = {
    "math": scored("math", 0.153, (0.117, 0.198), 1 / 6, 0.2),
    "biology": scored("biology", 0.093, (0.065, 0.132), 1 / 6, 0.193),
    "physics": scored("physics", 0.24, (0.195, 0.291), 1 / 6, 0.21),
    "law": scored("law", 0.8, (0.75, 0.84), 0.25, 0.3),
    "sums": scored("sums", 0.01, (0.003, 0.029), None, 0.02),
    "prose": scored("prose", 0.0, (0.0, 0.013), None, None),
    "edge": scored("edge", 0.3, (0.25, 0.35), 0.25, 0.25),
    "alone": scored("alone", 0.2, None, 0.25, 0.25),
    "two": scored("two", 1.0, (0.207, 1.0), 0.25, 0.5, n=2),
    "one": scored("one", 0.0, (0.0, 0.793), 0.25, 1.0, n=1),
}


def test_readings():
    assert {name: reading(row) for name, row in ROWS.items()} == {
        "math": "at chance",
        "biology": "below chance",
        "physics": "no better than one answer",
        "law": "",
        "sums": "no better than one answer",
        "prose": "",
        "edge": "at chance",  # the interval's end is chance
        "alone": "below chance",  # of one cluster, without an interval
        "two": "too few items",  # of one document: even all right is not above chance
        "one": "too few items",
    }


@pytest.fixture
def of(result):
    """The small run's result with these rows of base, and an arm on each target."""

    def make(*names):
        arm = result.arms[0]
        arms = tuple(arm.model_copy(update={"target": name}) for name in names)
        rows = tuple(ROWS[name] for name in names)
        other = scored("poetry", 0.25, (0.2, 0.3), 0.25, 0.3, role="non-target")
        return result.model_copy(update={"arms": arms, "base": (*rows, other)})

    return make


@pytest.mark.parametrize(
    ("names", "sentences"),
    [
        (["law", "prose"], []),
        (
            ["two", "law"],
            [
                "On two so few items cannot show that base is above chance: two 100.0 % "
                "[20.7, 100.0], where guessing gives 25.0 %, of 2 items."
            ],
        ),
        (
            ["math", "law"],
            [
                "On math base is at chance: math 15.3 % [11.7, 19.8], where guessing gives 16.7 %. "
                "Its right answers there may be luck."
            ],
        ),
        (
            ["math", "biology", "sums"],
            [
                "On math, biology base is at chance or below: math 15.3 % [11.7, 19.8], where "
                "guessing gives 16.7 %; biology 9.3 % [6.5, 13.2], below the 16.7 % of guessing. "
                "Its right answers there may be luck.",
                "On sums base is no better than one answer to all: sums 1.0 % [0.3, 2.9], where "
                "that answer gives 2.0 %.",
            ],
        ),
    ],
)
def test_the_findings_name_targets_at_a_floor(of, names, sentences):
    assert floor_findings(of(*names)) == sentences


def test_the_table_has_floors_beside_scores(of):
    table = base_scores(of("math", "sums"))
    names = [column.name for column in table.columns]
    row, generated, other = (
        dict(zip(names, (cell.text for cell in own.cells), strict=True)) for own in table.rows
    )
    assert row["base score"] == "15.3 % [11.7, 19.8]"
    assert (row["chance"], row["one constant answer"], row["reading"]) == (
        "16.7 %", "20.0 %", "at chance",
    )  # fmt: skip
    assert (generated["chance"], generated["one constant answer"]) == ("-", "2.0 %")
    assert (other["role"], other["reading"]) == ("non-target", "at chance")
    sources = [cell.source for cell in table.rows[0].cells]
    assert "comparisons.json: base[math_task].chance" in sources


def test_a_real_runs_floors_follow_from_its_options(result):
    """Of six items a task: every question has six options, sums are generated."""
    rows = {row.task: row for row in result.base}
    assert rows["lab_math_unnamed"].chance == pytest.approx(1 / 6)
    assert rows["lab_arithmetic"].chance is None
    assert all(row.constant * row.n == pytest.approx(round(row.constant * row.n))
               for row in rows.values())  # fmt: skip
    assert findings(result)[0].startswith("On math, physics base is at chance")

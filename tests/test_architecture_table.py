"""The table of architectures has a row of every type, and says what probing says."""

import pytest

from . import architecture_table as made

PAGE = made.PAGE.read_text(encoding="utf-8")
PART = PAGE.partition(made.BEGIN)[2].partition(made.END)[0]
NEEDED = 40


def test_the_table_is_of_the_installed_transformers():
    assert made.checked(PAGE) == []


def test_a_row_too_few_or_too_many_is_seen():
    page = PAGE.replace("| zaya |", "| yaza |")
    assert len(made.checked(page)) == 2
    assert made.checked(PAGE.replace(PART, "")) != []


def test_most_are_probed_and_each_refusal_has_one_sentence():
    probed, _, refused = PART.partition("| refused type |")
    rows = [line for line in probed.splitlines() if line.endswith(("| yes |", "| - |"))]
    assert len(rows) >= NEEDED
    assert all(row.count(" exact |") >= 3 and "| no |" not in row for row in rows)
    for line in (line for line in refused.splitlines() if line.startswith("| ")):
        reason = line.split(" | ")[-1]
        assert len(reason) > 40
        assert "Error" not in reason
        assert "None" not in reason


@pytest.mark.full
def test_the_table_is_what_probing_says():
    """Every type in a process of its own, with two minutes of a core and 4 GB."""
    rows = [made.in_limits(name) for name in made.moe_types()]
    assert [row for row in rows if "failed" in row] == []
    assert made.table(rows) == PART.strip()

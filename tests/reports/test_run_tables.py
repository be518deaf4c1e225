"""Every number of a run's tables is found again where its source says."""

import pytest

from dsmoe_eval.reports.run_claims import answers, generalization
from dsmoe_eval.reports.run_settings import settings
from dsmoe_eval.reports.run_tables import by_domain, details, domain_details

from .made import follow

TABLES = (details, generalization, settings, by_domain, domain_details, answers)


@pytest.mark.parametrize("make", TABLES)
def test_traces_lead_to_the_numbers(result, make):
    table, seen = make(result), 0
    for row in table.rows:
        for cell in row.cells:
            if not cell.source or " and " in cell.source or "1 + " in cell.source:
                continue
            value, test, named = follow(result, cell.source)
            assert not test or test == named, cell
            if isinstance(value, float) and cell.number is not None:
                seen += 1
                assert cell.number == value
    assert seen >= len(table.rows)


def test_a_number_that_is_not_claimed_has_no_source(result):
    table = details(result)
    place = [column.name for column in table.columns].index("p (Holm)")
    unclaimed = [row.cells[place] for row in table.rows if row.cells[0].text == "sham"]
    assert [(cell.text, cell.number, cell.source) for cell in unclaimed] == [
        ("no claim", None, "")
    ] * 2


def test_the_target_is_none_of_its_domains(result):
    table = by_domain(result)
    names = [column.name for column in table.columns]
    for row in table.rows:
        cell = row.cells[names.index(row.cells[1].text)]
        assert (cell.text, cell.source) == ("target", "")

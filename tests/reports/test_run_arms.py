"""What rows and plots are filtered by is what their arms are."""

from dsmoe_eval.reports.run_arms import run_facets
from dsmoe_eval.reports.run_tables import details, domain_details


def test_rows_are_found_by_what_they_are(result):
    facets = run_facets(result)
    assert facets["variant"] == ("sham", "contrast", "random")
    assert facets["domain"][:2] == ("math", "physics")
    assert "law" in facets["domain"]
    for row in details(result).rows:
        assert row.facets["variant"] == (row.cells[0].text,)
        assert row.facets["domain"] == (row.cells[1].text,)
    for row in domain_details(result).rows:
        assert row.facets["domain"] == (row.cells[1].text, row.cells[2].text)

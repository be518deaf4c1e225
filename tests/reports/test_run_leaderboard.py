"""The first table of a run's page leads to the arms that it sums up."""

from dsmoe_eval.reports.run_leaderboard import variants_table

from .made import follow


def test_the_leaderboard_leads_to_the_arms(result):
    table = variants_table(result)
    assert [row.cells[0].text for row in table.rows] == [
        "base (score)",
        "sham",
        "contrast",
        "random",
    ]
    base, *others = table.rows
    assert base.apart  # scores are not sorted among changes
    assert base.cells[1].source == "comparisons.json: base[lab_math_unnamed].score"
    for row in others:
        for cell in row.cells[1:3]:
            value, test, named = follow(result, cell.source)
            assert cell.number == value
            assert test == named == "mid-p McNemar"

"""Settings and probes of steered arms, each with its source."""

from dsmoe_eval.reports.run_settings import probes


def test_every_probe_has_its_source(result):
    table = probes(result)
    assert len(table.rows) == 6
    assert table.rows[0].cells[2].source == (
        "comparisons.json: arms[contrast, math].probe.null_max_difference"
    )

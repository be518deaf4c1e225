"""The page: its findings follow from intervals."""

import pytest

from dsmoe_eval.reports.simsmoe import render_simsmoe, simsmoe_findings
from dsmoe_eval.studies.simsmoe_summary import objective_rows, saturation_rows
from tests.studies.test_simsmoe_summary import study


@pytest.fixture
def result():
    models = study([{"step": 10, "text": 2.0, "balance": 1.0, "similarities": 0.5},
                    {"step": 100, "text": 1.5, "balance": 1.0, "similarities": 0.1}])  # fmt: skip
    return {
        "steps": 100, "characters_trained": 1000, "characters_read": 10_000, "documents": 3,
        "hypotheses": 288, "parameters": 1_000_000, "seeds": [0, 1, 2],
        "objectives": objective_rows(models), "saturation": saturation_rows(), "models": models,
    }  # fmt: skip


def test_what_is_said_follows_from_intervals(result):
    said = "\n".join(simsmoe_findings(result))
    assert "Debiased similarity, bits: +0.050 beside load balancing [+0.050, +0.050]: more." in said
    result["objectives"][1]["less_balance"]["over_seeds"] = (-0.01, 0.11)
    said = "\n".join(simsmoe_findings(result))
    assert "bits: +0.050 beside load balancing [-0.010, +0.110]: no difference is shown." in said
    assert "went from 0.50 (first tenth of them) to 0.10 (last tenth)" in said


def test_the_page_and_its_pictures(result, tmp_path):
    page = render_simsmoe(result, tmp_path).read_text(encoding="utf-8")
    for name in ("losses.png", "along.png", "simsmoe.json"):
        assert (tmp_path / name).stat().st_size > 500
    assert "| load balancing | 2.1" in page
    assert "12.0 (1.0, 2.0)" in page or "13.0 (1.0, 2.0)" in page

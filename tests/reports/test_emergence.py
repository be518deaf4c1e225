"""The page of emergence says how many experts are specific at each checkpoint."""

import json

import pytest

from dsmoe_eval.reports import render_emergence
from dsmoe_eval.reports.emergence import emergence_findings, emergence_table

from .made import shown
from .test_existence_maps import agreement


@pytest.fixture
def emerging():
    def row(label, specific):
        test = {
            "specific": specific, "by_domain": {"math": specific}, "beyond": {"random": 1},
            "controls": {kind: {"discoveries": [3, 6]} for kind in ("random", "shuffled")},
        }  # fmt: skip
        return {
            "model": f"run/{label}", "fingerprint": label, "label": label,
            "tests": {"counts": test, "influence": test | {"specific": 2 * specific}},
            "agreement": [agreement("math", 2), agreement("law", 1)],
        }  # fmt: skip

    return {
        "source": "suite lab", "bases": ["counts", "influence"], "form": "exact", "layers": [0, 1],
        "experts": 8, "hypotheses": 48, "level": 0.05, "permutations": 999, "control_models": 2,
        "limit": None, "checkpoints": [row("step-1", 2), row("step-2", 9), row("step-4", 7)],
    }  # fmt: skip


def test_the_page_of_emergence(emerging, tmp_path):
    assert emergence_findings(emerging)[1] == (
        "By influence: 4 specific experts at step-1, 14 at step-4, the most (18) at step-2; 3 to 6 "
        "in the last one's models with random weights; 3 to 6 in the last one's models with "
        "shuffled routers."
    )
    assert shown(emergence_table(emerging))[1] == (
        "step-2", "9 (4, 4)", "1", "18 (4, 4)", "1", "3 (1.0)", "0.25",
    )  # fmt: skip
    page = render_emergence(emerging, tmp_path / "e")
    written = json.loads((page.parent / "emergence.json").read_text())
    assert written == json.loads(json.dumps(emerging))
    assert (page.parent / "emergence.png").stat().st_size > 10_000
    for row in emerging["checkpoints"]:
        del row["tests"]["influence"]
    alone = emerging | {"bases": ["counts"], "form": None, "limit": 4}
    page = render_emergence(alone, tmp_path / "f").read_text()
    assert "smoke test" in page
    assert "Influence" not in page

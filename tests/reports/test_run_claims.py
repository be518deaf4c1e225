"""What arms may claim is shown of every arm that claims something, and of no other."""

import pytest

from dsmoe_eval.reports.run_claims import generalization

from .made import shown


def test_claims_of_every_arm_that_makes_some(result):
    table = generalization(result)
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in shown(table)]
    assert [(row["variant"], row["target"]) for row in rows] == [
        (arm.variant, arm.target) for arm in result.arms if arm.variant != "sham"
    ]
    for row in rows:
        assert (row["beyond placebo"] == "no control") == (row["variant"] == "random")
        assert row["beyond wrong domain"] == "no control"
    arm = next(a for a in result.arms if a.variant == "contrast")
    placebo = next(a for a in result.arms if a.variant == "random")
    gains = [a.target_result.delta for a in (arm, placebo)]
    over = arm.generalization.over_placebo
    assert over.delta == pytest.approx(gains[0] - gains[1])
    assert rows[0]["beyond placebo"].endswith(f", {over.claim.verdict}")

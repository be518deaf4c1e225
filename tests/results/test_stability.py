"""What follows from the figures of `stability.json`, by hand."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.results.stability import (
    ExpertOverlap,
    ResampledGains,
    StabilityResult,
    TargetWordings,
    Wording,
)

CELL = "0123456789abcdef"


def wording(base, arm, line=None):
    return Wording(line=line, base=base, arm=arm, base_cell=CELL, arm_cell=CELL)


def gains(*values):
    return ResampledGains(target="math", base=CELL, cells=(CELL,) * len(values), gains=values)


def test_the_spread_of_gains():
    found = gains(0.1, 0.2, 0.6)
    assert found.mean == pytest.approx(0.3)
    assert found.deviation == pytest.approx((0.14 / 2) ** 0.5)
    assert found.range == (0.1, 0.6)
    assert gains().mean is gains().range is gains().deviation is gains(0.1).deviation is None


def test_what_wordings_move():
    found = TargetWordings(
        target="math", wordings=(wording(0.5, 0.6), wording(0.4, 0.7, "a"), wording(0.55, 0.5, "b"))
    )
    assert found.base_range == pytest.approx(0.15)
    assert [one.gain for one in found.wordings] == pytest.approx([0.1, 0.3, -0.05])
    assert TargetWordings(target="math", wordings=(wording(0.5, 0.6),)).base_range is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        ExpertOverlap(experts=2, named=2, between=1.5, by_chance=0.1, with_full=0.2)
    with pytest.raises(ValidationError, match="no variant 'alchemy'"):
        StabilityResult(
            schema_version=1, resamples=2, arm="alchemy", overlaps=(), without_experts=(),
            gains=(), wordings=(),
        )  # fmt: skip

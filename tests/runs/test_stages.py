"""What a stage does before it asks a model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.runs import stages
from dsmoe_eval.runs.arms import PlannedArm
from dsmoe_eval.variants import Settings, get_variant


@pytest.mark.parametrize(("sizes", "left_out"), [((2, 7), ()), ((2, 8, 32), (8, 32))])
def test_a_size_of_all_experts_is_not_tried(monkeypatch, sizes, left_out):
    """Steering towards every expert is steering towards none."""
    monkeypatch.setattr(stages, "variant_experts", lambda *_: ())
    job = SimpleNamespace(
        engine=SimpleNamespace(identity=SimpleNamespace(experts=4, layers=(0, 1))),
        plan=SimpleNamespace(seed=0),
    )
    grid = tuple(Settings(size, 1.0) for size in sizes)
    arm = PlannedArm(get_variant("contrast"), "math", (), "math", grid)
    assert stages._unavailable(job, None, arm) == left_out
    with pytest.raises(UserError, match="8 experts are all that the model has; take fewer"):
        stages._unavailable(job, None, replace(arm, grid=(Settings(8, 1.0),)))

"""A pass gives what some method needs, and nothing else."""

import pytest

from dsmoe_eval.cards import Identification
from dsmoe_eval.experts import get_method
from dsmoe_eval.runs.specification import IdentificationSpec

NEEDS = {
    "dsmoe": "saliency", "easy-ep": "contributions", "influence": "influence",
    "router-lens": "router_tuning", "frequency": None,
}  # fmt: skip


@pytest.mark.parametrize("names", [[name] for name in NEEDS] + [["dsmoe", "router-lens"]])
def test_each_need_is_that_of_a_method(names):
    spec = IdentificationSpec.by([get_method(name) for name in names], Identification(), {"a": 1.0})
    wanted = {NEEDS[name] for name in names}
    kinds = {name for name in NEEDS.values() if name}
    assert {kind for kind in kinds if getattr(spec, kind)} == wanted - {None}
    assert (spec.markers, spec.sft) == ({"a": 1.0}, None)

"""Random experts beside those that they replace, by hand."""

from types import SimpleNamespace

import pytest

from dsmoe_eval.runs.matching import matching_of
from dsmoe_eval.variants import get_variant, variant_experts

from ..variants.test_profile_builder import counts


def arm(name):
    return SimpleNamespace(variant=get_variant(name), domain="math")


@pytest.mark.parametrize("size", [2, None])
def test_a_placebo_has_the_gaps_of_its_pairs(size):
    """Each of the six experts is used by 10 or 30 of 40 tokens a domain, one of them by 30."""
    name, seen = "sft-esft+matched", counts()
    experts = variant_experts(get_variant(name), seen, "math", size, 0)
    found = matching_of(arm(name), seen, experts, size, 0)
    chosen = variant_experts(get_variant("sft-esft"), seen, "math", size, 0)
    assert found["experts"] == len(chosen) == len(experts)
    exposed = {expert: (10 + 10 + (30 if expert < 3 else 10)) / 120 for expert in range(6)}
    pairs = [(exposed[a.expert], exposed[b.expert]) for a, b in zip(chosen, experts, strict=True)]
    gaps = [(b - a) / a for a, b in pairs]
    assert found["largest"] == pytest.approx(max(gaps, key=abs))
    assert found["outside"] == sum(abs(gap) > 0.1 for gap in gaps)
    both = [sum(column) for column in zip(*pairs, strict=True)]
    assert found["total"] == pytest.approx((both[1] - both[0]) / both[0])


def test_only_placebos_with_experts_have_any():
    assert matching_of(arm("sft-esft"), counts(), (), None, 0) is None
    assert matching_of(arm("residual+matched"), counts(), (), None, 0) is None

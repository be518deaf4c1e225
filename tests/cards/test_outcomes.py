"""The registry of outcomes, and what plans say of them."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import OUTCOMES, Plan


def plan(**keys):
    common = {"name": "p", "description": "", "model": "m", "suite": "s", "variants": ("base",)}
    return Plan(**common, margin=0.03, **keys)


def test_every_outcome_has_a_margin_and_a_direction():
    own = plan(margins={"bits_per_byte": 0.5})
    assert {name: own.margin_of(name) for name in OUTCOMES} == {
        "score": 0.03, "gold_logprob": OUTCOMES["gold_logprob"].margin, "bits_per_byte": 0.5,
    }  # fmt: skip
    assert {name: one.sign for name, one in OUTCOMES.items()} == {
        "score": 1, "gold_logprob": 1, "bits_per_byte": -1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "named"),
    [({"outcome": "bits_per_byte"}, "outcome"), ({"margins": {"score": 0.1}}, "score"),
     ({"margins": {"gold_logprob": 0.0}}, "gold_logprob")],
)  # fmt: skip
def test_a_primary_outcome_and_margins_are_checked(keys, named):
    with pytest.raises(ValidationError, match=named):
        plan(**keys)

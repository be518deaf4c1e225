"""Declarations are frozen, and strict about keys."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import Plan
from dsmoe_eval.registry import load_plan


def test_unknown_keys_and_changes_are_refused():
    plan, _ = load_plan("lab")
    with pytest.raises(ValidationError, match="Extra inputs"):
        Plan.model_validate(plan.model_dump() | {"surprise": 1})
    with pytest.raises(ValidationError, match="frozen"):
        plan.margin = 0.5

"""A cell's identity."""

import dataclasses

import pytest

from dsmoe_eval.results.cells import Identity

IDENTITY = Identity(
    model="m", fingerprint="f", variant="contrast", target="math", profile="p", adapter=None,
    dtype="float32", device="cpu", experts_implementation="grouped_mm", engine="transformers",
    engine_settings=(("eager", True),), versions=(("torch", "2"),), batch_tokens=64,
    prompt_format="plain", decoding="greedy", ends=("\n", 1), task="t", task_version="1",
    few_shot=0, answer_tokens=9, filter="f", metric="acc", split="test", items="i", seed=0,
)  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Identity)])
def test_whatever_can_change_an_answer_changes_the_identity(field):
    other = dataclasses.replace(IDENTITY, **{field: "something else"})
    assert other.id != IDENTITY.id
    assert dataclasses.replace(other, **{field: getattr(IDENTITY, field)}).id == IDENTITY.id

"""An arm acts if what should change did, and its outputs with it; by hand."""

import pandas as pd
import pytest

from dsmoe_eval.results.acted import EVIDENCE, acted_of, output_change
from dsmoe_eval.variants import get_variant


@pytest.mark.parametrize(
    ("variant", "evidence", "change", "verdict"),
    [
        ("contrast", {"kind": "logits", "figure": 0.3}, 0.0, "acted"),
        ("contrast", {"kind": "logits", "figure": 0.0}, 0.0, "failed"),
        ("contrast+matched", {"kind": "logits", "figure": 0.0}, 0.0, "idle"),
        ("learned-profile", {"kind": "logits", "figure": 0.0}, 0.0, "idle"),
        ("suppress", {"kind": "experts", "figure": 1.0, "moved": 0.2}, 0.1, "acted"),
        ("suppress", {"kind": "experts", "figure": 1.0, "moved": 0.0}, 0.0, "idle"),
        ("sft-lora", {"kind": "weights", "figure": 1.0}, 0.4, "acted"),
        ("sft-lora", {"kind": "weights", "figure": 0.0}, 0.0, "failed"),
        # The weights changed on disk, and the engine answers as base does: served without them.
        ("sft-esft", {"kind": "weights", "figure": 1.0}, 0.0, "failed"),
        ("sft-esft+matched", {"kind": "weights", "figure": 0.0}, 0.0, "idle"),
        ("sft-router-x2", {"kind": "weights", "figure": 0.5}, 1e-6, "acted"),
        ("prompt", {"kind": "prompt", "figure": 4.0}, 0.0, "failed"),
        ("prompt", {"kind": "prompt", "figure": 4.0}, 2.0, "acted"),
        ("base-int4", {"kind": "bytes", "figure": 1.0}, 0.3, "acted"),
        ("base-int4", {"kind": "bytes", "figure": 0.0}, 0.3, "failed"),
        ("base-int4", {"kind": "bytes", "figure": 1.0}, 0.0, "failed"),  # served without it
        ("contrast-int4+sham", {"kind": "bytes", "figure": 1.0}, 0.0, "acted"),
        ("contrast-int4+sham", {"kind": "bytes", "figure": 0.0}, 0.0, "failed"),
        ("contrast-fp8", {"kind": "logits", "figure": 0.3, "quantized": 0.5}, 0.1, "acted"),
        ("contrast-fp8", {"kind": "logits", "figure": 0.0, "quantized": 1.0}, 0.0, "failed"),
        ("contrast-fp8", {"kind": "logits", "figure": 0.3, "quantized": 0.0}, 0.1, "failed"),
        ("contrast-fp8+matched", {"kind": "logits", "figure": 0.3, "quantized": 0.0}, 1, "failed"),
    ],
)
def test_an_arm_that_should_change_the_model_and_does_not_has_failed(
    variant, evidence, change, verdict
):
    found = acted_of(get_variant(variant), evidence, change)
    assert (found.verdict, found.output_change) == (verdict, change)
    assert (found.kind, found.figure) == (evidence["kind"], evidence["figure"])
    assert found.quantized == evidence.get("quantized")
    assert found.kind in EVIDENCE


def rows(likelihoods, texts=((), (), ())):
    return pd.DataFrame({"item": list("abc"), "loglikelihoods": likelihoods, "texts": list(texts)})


def test_outputs_are_compared_item_by_item():
    base = rows([[-1.0, -2.0], [-3.0], []])
    arm = rows([[-1.0, -2.5], [-3.25], []]).iloc[::-1]
    assert output_change(base, arm) == 0.5
    assert output_change(base, base) == 0


def test_of_generated_answers_it_is_the_share_that_differ():
    base = rows([[], [], []], (["x", "y"], ["z"], ["u"]))
    arm = rows([[], [], []], (["x", "z"], ["z"], ["v"]))
    assert output_change(base, arm) == 0.5
    assert output_change(rows([[], [], []]), rows([[], [], []])) == 0

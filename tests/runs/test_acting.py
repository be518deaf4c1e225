"""The figure that a cell keeps of what was done to the model, by the kind of its arm."""

from types import SimpleNamespace

import pytest

from dsmoe_eval.runs import acting
from dsmoe_eval.runs.acting import evidence_of
from dsmoe_eval.runs.arms import PlannedArm, PreparedArm
from dsmoe_eval.variants import get_variant

JOB = SimpleNamespace(lm=SimpleNamespace(tok_encode=str.split), folder="f")
MOVED = {"logit_max_change": 0.5, "null_max_difference": 0.0, "selection_changed": 0.25}


def prepared(name, line=None):
    return PreparedArm(PlannedArm(get_variant(name), "math", ("t",), "math", preamble=line))


@pytest.mark.parametrize(
    ("name", "figures", "expected"),
    [
        ("contrast", MOVED, {"kind": "logits", "figure": 0.5}),
        ("contrast", MOVED | {"null_max_difference": 0.5}, {"kind": "logits", "figure": 0.0}),
        ("suppress", MOVED, {"kind": "experts", "figure": 1.0, "moved": 0.5}),
        ("suppress", MOVED | {"selection_changed": None}, {"kind": "logits", "figure": 0.5}),
        ("sham", MOVED, None),
        ("contrast", None, None),
    ],
)
def test_a_steered_arm_has_the_probes_figures(name, figures, expected):
    probed = None if figures is None else SimpleNamespace(to_dict=lambda: figures)
    assert evidence_of(JOB, prepared(name), probed) == expected


def test_base_has_none_and_a_line_its_tokens(monkeypatch):
    assert evidence_of(JOB, None, None) is None
    line = "You are asked about math."
    assert evidence_of(JOB, prepared("prompt", line), None) == {"kind": "prompt", "figure": 5.0}
    asked = []
    monkeypatch.setattr(
        acting, "read_training", lambda *of: asked.append(of) or SimpleNamespace(landed=0.75)
    )
    found = evidence_of(JOB, prepared("sft-esft-x2"), None)
    assert found == {"kind": "weights", "figure": 0.75}
    assert asked == [("f", "sft-esft-x2", "math")]

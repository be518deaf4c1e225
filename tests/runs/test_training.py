"""Fine-tuned arms are trained once, whoever trains them."""

from dataclasses import dataclass
from types import SimpleNamespace

from dsmoe_eval.runs import training
from dsmoe_eval.runs.leases import ALONE


@dataclass(frozen=True)
class Arm:
    name: str
    kind: str

    @property
    def variant(self):
        return self


def test_an_arm_that_another_has_trained_is_only_read(monkeypatch):
    read = []
    arms = [Arm("a", "sft"), Arm("b", "steered"), Arm("c", "sft")]
    monkeypatch.setattr(training, "_is_trained", lambda _job, arm: arm.name == "c")
    monkeypatch.setattr(training, "fine_tune", lambda _job, _n, arm, _s: read.append(arm) or arm)
    trained = training.trained_arms(SimpleNamespace(arms=arms, leases=ALONE), None, lambda _: None)
    assert [arm.name for arm in trained] == ["a", "c"]
    assert read == list(trained.values())

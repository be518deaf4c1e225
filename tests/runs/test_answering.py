"""What is probed before an arm answers."""

from types import SimpleNamespace

import pytest

from dsmoe_eval.runs.answering import run_probes
from dsmoe_eval.runs.arms import PlannedArm
from dsmoe_eval.variants import get_variant


@pytest.mark.parametrize(
    ("name", "must_act"), [("contrast", False), ("random", False), ("sham", True)]
)
def test_an_arm_that_changes_nothing_does_not_stop_a_run(name, must_act):
    """It is marked as failed; a sham is checked to change nothing."""
    asked = []

    class Prober:
        def probe(self, profile, must_act):
            asked.append((profile.id, must_act))
            return SimpleNamespace(to_dict=dict)

    task = SimpleNamespace(items=[SimpleNamespace(question="What?")])
    job = SimpleNamespace(engine=SimpleNamespace(prober=lambda _: Prober()), tuning={"t": task})
    arm = PlannedArm(get_variant(name), "math", ("t",), "math")
    run_probes(job, arm, SimpleNamespace(id="p"))
    assert asked == [("p", must_act)]

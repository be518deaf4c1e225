"""What is probed before an arm answers."""

from types import SimpleNamespace

import pytest

from dsmoe_eval.runs.answering import run_probes
from dsmoe_eval.runs.arms import PlannedArm
from dsmoe_eval.variants import get_variant


@pytest.mark.parametrize(
    ("name", "must_act"),
    [("contrast", True), ("contrast+wrong", True), ("contrast+matched", False), ("random", False)],
)
def test_only_random_experts_may_be_ones_that_the_text_does_not_use(name, must_act):
    """A run of days must not stop because a placebo's experts are idle; a silent arm must."""
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

"""What is probed before an arm answers, and the model as each arm needs it."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from dsmoe_eval.runs.arms import PlannedArm, PreparedArm
from dsmoe_eval.runs.bench import Bench, run_probes
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


def test_arms_of_one_quantized_model_share_it_and_base_is_without():
    events = []

    @contextmanager
    def noted(name, given):
        events.append(f"+{name}")
        yield given
        events.append(f"-{name}")

    def prepared(name):
        return PreparedArm(PlannedArm(get_variant(name), "math", ("t",), "math"))

    plain, one, other, third = map(
        prepared, ["contrast", "base-int4", "contrast-int4", "contrast-fp8"]
    )
    bench = Bench(lambda arm: noted(arm.planned.variant.name, arm), lambda form: noted(form, 0.5))
    shares = []
    for arm in (plain, one, other, other, third, None, plain):
        assert bench.take(arm) is arm
        shares.append(bench.share)
    bench.close()
    assert shares == [None, 0.5, 0.5, 0.5, 0.5, None, None]
    assert " ".join(events) == (
        "+contrast -contrast +int4 +base-int4 -base-int4 +contrast-int4 -contrast-int4 -int4 "
        "+fp8 +contrast-fp8 -contrast-fp8 -fp8 +contrast -contrast"
    )
    with pytest.raises(ValueError, match="no model of int4"):
        Bench(lambda arm: noted("", arm)).take(one)


def test_the_model_is_unrounded_also_if_its_steering_cannot_be_removed():
    events = []

    @contextmanager
    def rounded(form):
        events.append(form)
        yield 1.0
        events.append("unrounded")

    @contextmanager
    def equipped(_arm):
        yield None
        raise MemoryError

    bench = Bench(equipped, rounded)
    bench.take(PreparedArm(PlannedArm(get_variant("contrast-int4"), "math", ("t",), "math")))
    with pytest.raises(MemoryError):
        bench.close()
    assert events == ["int4", "unrounded"]

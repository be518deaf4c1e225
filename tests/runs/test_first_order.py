"""Effects to first order: shifts of a profile, in each unit, times influence."""

import math

import numpy as np
import pytest

from dsmoe_eval.runs.first_order import Slopes, unit_shifts
from dsmoe_eval.steering import ChosenExpert, Intervention, ModelIdentity, Profile, Sites, Source

MODEL = ModelIdentity(name="m", fingerprint="0", routers="0", layers=(1, 3), experts=4)
EXPERTS = (
    ChosenExpert(layer=3, expert=0, score=-2.0),
    ChosenExpert(layer=1, expert=2, score=1.0),
)


def profile(**intervention):
    source = Source(suite=None, domain="law", split=None, items=())
    return Profile(
        model=MODEL,
        method="m",
        experts=EXPERTS,
        intervention=Intervention(**intervention),
        source=source,
    )


@pytest.mark.parametrize(
    ("intervention", "shifts"),
    [
        ({"kind": "bias", "strength": 1.0}, (math.log(2), math.log(2))),
        (
            {"kind": "bias", "strength": 2.0, "unit": "sigma", "sigmas": ((1, 0.1), (3, 0.5))},
            (0.2, 1.0),
        ),
        ({"kind": "bias", "strength": 0.5, "unit": "scores"}, (0.5, -1.0)),
    ],
)
def test_a_bias_shifts_logits_by_log_odds(intervention, shifts):
    expected = np.zeros((2, 4))
    expected[0, 2], expected[1, 0] = shifts
    one = profile(**intervention)
    np.testing.assert_allclose(unit_shifts(one), expected)
    slopes = np.random.default_rng(0).normal(size=(2, 4))
    effect = Slopes("gradient", {"a": slopes}).of(one, "a")
    assert effect == pytest.approx(slopes[0, 2] * shifts[0] + slopes[1, 0] * shifts[1])


def test_there_is_none_of_other_edits_and_of_other_tasks():
    for other in ({"kind": "reweight"}, {"kind": "bias", "channel": "score"}):
        one = profile(strength=1.0, **other)
        assert unit_shifts(one) is None
        assert Slopes("exact", {"a": np.ones((2, 4))}).of(one, "a") is None
    assert Slopes("exact", {}).of(profile(kind="bias", strength=1.0), "a") is None


@pytest.mark.parametrize(("kind", "shift"), [("amplify", 1.0), ("reweight", 1.0), ("mask", -1.0)])
def test_neurons_are_multiplied_by_one_and_the_shift(kind, shift):
    one = profile(kind=kind, strength=1.0)
    sites = Sites(kind="neurons")
    one = one.model_copy(update={"model": MODEL.model_copy(update={"sites": sites})})
    expected = np.zeros((2, 4))
    expected[0, 2] = expected[1, 0] = shift
    np.testing.assert_array_equal(unit_shifts(one), expected)

"""What a reading holds."""

from dsmoe_eval.gates.readings import Measurement


def test_a_number_may_have_no_interval():
    one = Measurement(0.5)
    assert (one.low, one.high, one.words) == (None, None, "")

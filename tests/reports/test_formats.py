"""Numbers as text: rounded and with their sign, and never one for the other."""

import pytest

from dsmoe_eval.reports import formats


@pytest.mark.parametrize(
    ("show", "parts", "text"),
    [
        (formats.percent, (0.8234,), "82.3%"),
        (formats.pp, (0.0318,), "+3.2 pp"),
        (formats.pp, (-0.01, "▼"), "-1.0 pp ▼"),
        (formats.points, (0.0318, ""), "+3.2"),
        (formats.pp_of, (-0.0144, "law"), "-1.4 pp (law)"),
        (formats.pp_and, (0.0, "inconclusive"), "+0.0 pp, inconclusive"),
        (formats.points_interval, (-0.01, 0.032), "-1.0 to +3.2"),
        (formats.size_pp, (0.055,), "5.5 pp"),
        (formats.score, (0.153,), "15.3 %"),
        (formats.score, (0.153, 0.117, 0.1984), "15.3 % [11.7, 19.8]"),
        (formats.share_of, (3, 4), "3 of 4"),
        (formats.p_value, (0.00009,), "< 0.0001"),
        (formats.p_value, (0.0001,), "0.0001"),
        (formats.margin, (0.02,), "2"),
    ],
)
def test_numbers_as_text(show, parts, text):
    assert show(*parts) == text

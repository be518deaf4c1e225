"""Texts in windows, and their sums."""

import pytest

from dsmoe_eval.engines.rolling import RollingTexts, known_length
from dsmoe_eval.errors import UserError


def test_each_token_is_in_one_window_and_values_go_to_their_text():
    texts = [list(range(10)), [], [7]]
    rolling = RollingTexts.of(texts, 99, 4, list)
    assert rolling.counts == (3, 0, 1)
    assert [token for _, after in rolling.arranged for token in after] == [*range(10), 7]
    assert all(len(before) + len(after) <= 5 for before, after in rolling.arranged)
    assert rolling.totals([-1.0, -2.0, -3.0, -4.0]) == [-6.0, 0, -4.0]


def test_windows_need_a_length():
    assert known_length(9) == 9
    with pytest.raises(UserError, match="not served"):
        known_length(None)

"""A run's numerical noise, against log-likelihoods that differ by a known amount."""

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.runs.noise import NOISE_ITEMS, batch_noise


class Given:
    """An LM that gives the log-likelihoods which it was given."""

    def __init__(self, values):
        self.values = iter(values)

    def score_again(self, texts):
        return [(value, False) for value in next(self.values)[: len(texts)]]


class Asked:
    """A task of so many items with two options each."""

    def __init__(self, count):
        made = lambda i, j: type("Request", (), {"doc_id": i, "args": (f"{i}", f"{j}")})()  # noqa: E731
        self.card = type("Card", (), {"is_text": False})()
        self.requests = [made(i, j) for i in range(count) for j in range(2)]


@pytest.mark.parametrize("count", [1, 5, 100])
def test_flips_and_differences_are_counted(count):
    rows = pd.DataFrame({"loglikelihoods": [[-1.0, -2.0]] * count})
    few = min(count, NOISE_ITEMS)
    again = [[-2.5, -2.0] if i == 0 else [-1.25, -2.25] for i in range(few)]
    found = batch_noise(Given(again), Asked(count), rows)
    differences = np.abs(np.array(again) - [-1.0, -2.0])
    assert found == {
        "items": few, "flipped": 1, "median_difference": float(np.median(differences)),
    }  # fmt: skip


def test_generated_answers_have_none():
    assert batch_noise(Given([]), Asked(2), pd.DataFrame({"loglikelihoods": [[], []]})) is None

"""The page of influence says what `influence.json` says."""

import json
import math

import pytest

from dsmoe_eval.reports import influence_page, render_influence


def entry(layer, expert, influence, centred, error):
    return {
        "layer": layer, "expert": expert, "influence": influence, "centred": centred,
        "error": error,
    }  # fmt: skip


LARGEST = ((2, 1, 0.5, 0.2, 0.1), (4, 1, 0.1, 0.1, 0.1), (4, 2, 0.1, 0.1, 0.0))


def row(domain, **changes):
    figures = {
        "domain": domain, "items": 5, "clusters": 4, "outcome": -1.25,
        "influence": [[0.1, 0.5, 0.3], [-0.2, 0.1, 0.1]],
        "error": [[0.1, 0.1, 0.1], [0.04, 0.1, 0.0]], "curvature": [[0.0] * 3] * 2,
        "above": 1, "below": 1, "largest": [entry(*one) for one in LARGEST],
    }  # fmt: skip
    return figures | changes


@pytest.fixture
def result():
    return {
        "model": {"name": "tiny", "fingerprint": "0"}, "dtype": "float32", "device": "cpu",
        "source": "suite lab", "form": "exact", "channel": "logit", "step": 0.5, "unit": "sigma",
        "steps": [0.6, 0.7], "tokens": 1234, "texts": 20, "experts": 3, "layers": [2, 4],
        "domains": [row("law"), row("math", clusters=1, error=None, above=None, below=None)],
    }  # fmt: skip


def test_the_page_has_the_largest_entries_and_their_t(result, tmp_path):
    page = render_influence(result, tmp_path)
    text = page.read_text()
    assert json.loads((tmp_path / "influence.json").read_text()) == result
    assert (tmp_path / "influence.png").stat().st_size > 1000
    assert "one expert raised by 0.5 of each layer's logit spread" in text
    # P(T > 4) with 3 degrees of freedom: 0.5 - (atan(x) + x / (1 + x^2)) / pi, x = 4 / sqrt(3).
    x = 4 / math.sqrt(3)
    chance = 6 * (0.5 - (math.atan(x) + x / (1 + x * x)) / math.pi)
    said = f"1 have t above 4 and 1 below -4 (by chance about {chance:.0f} each)"
    assert f"of 6 experts {said}" in text
    assert "one cluster has no standard error" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| law")]
    assert [one[1:3] for one in rows[:3]] == [["2", "1"], ["4", "1"], ["4", "2"]]
    assert rows[0][3:5] == ["+0.5000", "+0.2000"]
    assert (rows[0][5], rows[2][5]) == ("+5.0 |", " |")  # without an error there is no t


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "gradient", "step": None}, "The gradient, while no selection changes."),
        ({"unit": "odds"}, "raised by 0.5 log-odds"),
        ({"channel": "score", "unit": "odds"}, "nats per unit of the correction bias"),
    ],
)
def test_the_page_says_what_was_raised(result, changes, words):
    assert words in influence_page(result | changes)


def test_the_page_of_a_dense_model_says_neurons(result, tmp_path):
    dense = {"form": "gradient", "step": None, "channel": "factor", "unit": "factor"}
    page = render_influence(result | dense | {"units": "neurons", "column": 2}, tmp_path)
    text = page.read_text()
    assert text.startswith("# What raising a neuron of tiny does")
    assert "its units are neurons, 6 in all. Each is multiplied by 1 + s" in text
    assert "nats per unit of s." in text
    assert "of 6 neurons 1 have t above 4" in text
    assert "| domain | layer | neuron | influence |" in text
    assert "expert" not in text


def test_what_chance_gives_depends_on_the_number_of_clusters(result):
    """With 2 degrees of freedom: 0.5 - t / (2 sqrt(2 + t^2)), 2.86 % above 4."""
    few = result | {"experts": 1000, "domains": [row("law", clusters=3)]}
    expected = 2000 * (0.5 - 4 / (2 * math.sqrt(18)))
    assert f"(by chance about {expected:.0f} each)" in influence_page(few)

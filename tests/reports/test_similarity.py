"""The page says what `similarity.json` says, whatever came out."""

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from dsmoe_eval.reports import render_similarity, similarity_page

KEPT = Path(__file__).resolve().parents[2] / "reports" / "similarity"
NAMES = ("experts", "random", "shuffled")


def summary(mean, **changes):
    figures = {"mean": mean, "alike": 0.25, "largest": mean + 0.1, "pair": [3, 5]}
    return figures | {"effective_rank": 4.0} | changes


def result_of(layers):
    contrast = {"pairs": 4, "mean": 0.31, "null_mean": 0.2, "null_low": 0.1, "null_high": 0.3}
    contrast |= {"p_value": 0.02}
    figures = {"within": contrast, "across": None, "others": None}
    return {
        "model": {"name": "tiny", "fingerprint": "0"},
        "experts": 8, "tokens": 512, "texts": 77, "seed": 0,
        "dtype": "float32", "device": "cpu", "source": "suite lab, split identification",
        "profile": {
            "id": "abc", "method": "dsmoe", "domain": "law", "experts": 5, "draws": 10000,
            "linear": figures, "rbf": figures,
        },
        "layers": layers,
    }  # fmt: skip


def layer(number, own, random):
    figures = {"experts": summary(own), "random": summary(random), "shuffled": summary(-0.0001)}
    used = [0.5, 0, 0, 0.123, 0.5, 0, 0.5, 0.377]
    return {
        "layer": number, "check": 2e-7, "used": used,
        "linear": figures, "rbf": copy.deepcopy(figures),
    }  # fmt: skip


@pytest.fixture
def result():
    """Layer 2 is below random, 3 above it, 5 collapsed."""
    return result_of([layer(2, 0.1, 0.3), layer(3, 0.4, 0.3), layer(5, 0.8, 0.3)])


def test_findings(result):
    page = similarity_page(result)
    assert "Linear CKA of two experts is 0.43 on average; of random experts 0.30" in page
    assert "more alike than random ones in 2 of 3 layers (3, 5)." in page
    assert "above 0.5 by both kernels in 1 of 3 layers (5)." in page
    assert "in layer 5: experts 3 and 5, with a linear CKA of 0.90; the router selects" in page
    assert "for 12.3% and 0.0% of the tokens" in page
    assert "-0.000" not in page
    result["layers"][2]["rbf"]["experts"]["mean"] = 0.49
    assert "by both kernels in 0 of 3 layers." in similarity_page(result)


def test_tables(result):
    page = similarity_page(result)
    assert (
        "| 3 | 3 | 0.400 | 0.300 | 0.000 | 25.0% | 25.0% | 3 and 5: 0.50 | 4.0 | 4.0 | 4.0 |"
        in page
    )
    assert "| Linear | two chosen | 4 | 0.310 | 0.200 | 0.100 to 0.300 | 0.0200 |" in page
    assert "| RBF | a chosen and another | 0 | none |" in page
    assert "The 5 experts of profile abc (dsmoe, law)" in page
    result["profile"] = None
    assert "profile" not in similarity_page(result)
    lines = page.splitlines()
    assert sum(line.startswith("|") for line in lines) == 2 * 5 + 8
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


def test_files(result, tmp_path):
    page = render_similarity(result, tmp_path / "a")
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"similarity.json", "similarity.md", "similarity.png"}
    assert "](similarity.png)" in page.read_text()
    assert json.loads((page.parent / "similarity.json").read_text()) == result
    other = render_similarity(result, tmp_path / "b").parent
    for name in names:
        assert (other / name).read_bytes() == (page.parent / name).read_bytes()


def test_the_picture_shows_every_series(result, tmp_path, monkeypatch):
    from dsmoe_eval.reports import study_figures

    seen = {}
    monkeypatch.setattr(study_figures, "save", lambda figure, _path: seen.update(figure=figure))
    many = result_of([layer(n, 0.1 + n / 100, 0.2) for n in range(48)])
    study_figures.similarity_figure(many, tmp_path / "x.png")
    axes = seen["figure"].axes
    assert len(axes) == 4
    for axis, key in zip(axes, ("mean", "mean", "effective_rank", "effective_rank"), strict=True):
        drawn = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 48]
        for name, values in zip(NAMES, drawn, strict=False):
            expected = [row["linear"][name][key] for row in many["layers"]]
            np.testing.assert_allclose(values, expected)
    assert 5 <= len(axes[2].get_xticks()) <= 24


def test_the_page_that_is_kept_is_of_this_code():
    kept = json.loads((KEPT / "similarity.json").read_text())
    assert (KEPT / "similarity.md").read_text() == similarity_page(kept, picture=True)

"""The page says what the result says, whatever came out."""

import copy
import itertools
import json

import pytest

from dsmoe_eval.reports import render_existence
from dsmoe_eval.reports.existence import existence_findings, specific_by_domain, top_experts

from .made import shown


def expert(difference, *, beyond):
    return {
        "layer": 3, "expert": 7, "rate": difference + 0.1, "rest_rate": 0.1,
        "difference": difference, "difference_ci95": [difference - 0.01, difference + 0.01],
        "lift": 10 * difference + 1, "lift_ci95": [1.1, 3.0], "p_value": 1e-4,
        "p_adjusted": 0.0123, "exceeds_random": beyond,
    }  # fmt: skip


def domain(name, *differences, largest=0.2):
    specific = [expert(each, beyond=each > largest) for each in differences]
    beyond = sum(each["exceeds_random"] for each in specific)
    return {
        "domain": name, "documents": 1234, "tokens": 5678, "specific": specific,
        "exceeding": beyond, "by_layer": [0, len(specific)], "exceeding_by_layer": [0, beyond],
        "random_specific": [1, 2], "random_by_layer": [0.5, 1.0], "random_largest": largest,
        "stability": 0.75 if specific else None, "stability_by_chance": 0.1 if specific else None,
    }  # fmt: skip


@pytest.fixture
def result():
    return {
        "model": "some/model", "fingerprint": "f", "dtype": "float32", "device": "cpu",
        "suite": "s", "file": None, "limit": None, "layers": [1, 3], "experts": 8, "level": 0.05,
        "permutations": 9999, "resamples": 2000, "stability_pairs": 100, "hypotheses": 48,
        "fewest_discoveries": 17, "random_seeds": [0, 1],
        "domains": [domain("math", 0.5, 0.3, 0.1), domain("law", 0.15), domain("music")],
    }  # fmt: skip


def test_what_exceeds_and_what_was_not_found(result):
    said = existence_findings(result)
    assert "in 2 of 3 domains: 4 discoveries of 48 tested" in said[0]
    assert "false discovery rate of 5% with 9,999 shuffles" in said[0]
    assert said[1].startswith("2 of them exceed random weights (math 2)")
    assert "makes 3, 6 discoveries (this model: 4)" in said[2]
    assert said[3] == "Nothing was found for music."


def test_nothing_beyond_random_weights(result):
    result["domains"] = [domain("math", 0.1), domain("law", 0.15)]
    assert "None of them exceeds random weights" in existence_findings(result)[1]
    assert "is not shown" in existence_findings(result)[1]


def test_nothing_at_all(result):
    result |= {"domains": [domain("math"), domain("law")], "limit": 3}
    first, last = existence_findings(result)
    assert first.startswith("No expert is specific to any domain, of 48 tested")
    assert "no proof that there are none: fewer than 17 could not be declared" in first
    assert "not a result" in last


def test_tables_show_the_figures(result):
    math = shown(specific_by_domain(result))[0]
    assert math == ("math", "1,234", "5,678", "3", "2", "1, 2", "50.0", "20.0", "0.75 (0.10)")
    assert shown(specific_by_domain(result))[2][6:] == ("", "20.0", "")
    first = shown(top_experts(result))[0]
    assert first == (
        "math", "3", "7", "60.0%", "10.0%", "50.0", "49.0 to 51.0", "6.00", "1.10 to 3.00",
        "0.0123", "yes",
    )  # fmt: skip
    many = copy.deepcopy(result)
    many["domains"] = [domain("math", *([0.3] * 9))]
    assert len(top_experts(many).rows) == 5


@pytest.mark.parametrize(("layers", "found"), [(2, True), (40, True), (2, False)])
def test_page_picture_and_data(result, tmp_path, layers, found):
    result["layers"] = list(range(layers))
    for row in result["domains"]:
        row["by_layer"], row["random_by_layer"] = [1] * layers, [0.5] * layers
        if not found:
            row["specific"] = []
    page = render_existence(result, tmp_path / "new" / "folder")
    assert {path.name for path in page.parent.iterdir()} == {
        "existence.json", "existence.md", "existence.png",
    }  # fmt: skip
    assert json.loads((page.parent / "existence.json").read_text()) == result
    text = page.read_text()
    for words in ("# Domain-specific experts: some/model on suite s", "9,999", "(existence.png)"):
        assert words in text
    for before, line in itertools.pairwise(text.splitlines()):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")
    again = render_existence(result, tmp_path / "again").parent
    for path in page.parent.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name

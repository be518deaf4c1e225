"""The page says what the result says, whatever came out."""

import copy
import itertools
import json

import pytest

from dsmoe_eval.reports import render_existence
from dsmoe_eval.reports.existence import (
    beyond_by_domain,
    existence_findings,
    specific_by_domain,
    top_experts,
)

from .made import shown


def expert(t, *, random, shuffled):
    return {
        "layer": 3, "expert": 7, "rate": 0.6, "rest_rate": 0.1,
        "difference": 0.5, "difference_ci95": [0.49, 0.51], "statistic": t,
        "lift": 6.0, "lift_ci95": [1.1, 3.0], "p_value": 1e-4,
        "p_adjusted": 0.0123, "beyond": {"random": random, "shuffled": shuffled},
    }  # fmt: skip


def control(beyond, *, largest=8.0):
    return {
        "specific": [1, 2], "by_layer": [0.5, 1.0], "largest": 0.2, "largest_statistic": largest,
        "beyond": beyond, "beyond_by_layer": [0, beyond],
    }  # fmt: skip


def domain(name, *statistics):
    specific = [expert(t, random=t > 8, shuffled=t > 12) for t in statistics]
    return {
        "domain": name, "documents": 1234, "tokens": 5678, "specific": specific,
        "by_layer": [0, len(specific)], "largest_statistic": max(statistics, default=1.5),
        "controls": {
            "random": control(sum(t > 8 for t in statistics)),
            "shuffled": control(sum(t > 12 for t in statistics), largest=12.0),
        },
        "stability": 0.75 if specific else None, "stability_by_chance": 0.1 if specific else None,
    }  # fmt: skip


def summary(beyond, p_by_strength, p_by_number=0.05):
    return {
        "discoveries": [3, 6], "p_by_number": p_by_number, "domains_beyond": beyond,
        "p_by_strength": p_by_strength,
    }  # fmt: skip


@pytest.fixture
def result():
    return {
        "model": "some/model", "fingerprint": "f", "dtype": "float32", "device": "cpu",
        "suite": "s", "file": None, "limit": None, "layers": [1, 3], "experts": 8, "level": 0.05,
        "permutations": 9999, "resamples": 2000, "stability_pairs": 100, "hypotheses": 48,
        "fewest_discoveries": 17, "control_models": 19,
        "controls": {"random": summary(1, 0.05), "shuffled": summary(0, 1.0, 0.4)},
        "domains": [domain("math", 11.0, 9.0, 5.0), domain("law", 7.0), domain("music")],
    }  # fmt: skip


def test_what_is_beyond_the_controls_and_what_was_not_found(result):
    said = existence_findings(result)
    assert "in 2 of 3 domains: 4 discoveries of 48 tested" in said[0]
    assert "false discovery rate of 5% with 9,999 shuffles" in said[0]
    assert said[1] == (
        "Beside random weights: 2 of them have a larger t than any expert for the domain in 19 "
        "model(s) with random weights (math 2); p of such experts in 1 of 3 domains is at most "
        "0.05. By number, this model has 4 and they have 3 to 6 (p = 0.05). More specialised than "
        "random weights: shown, by strength and by number."
    )
    assert said[2] == (
        "Beside shuffled routers: none of them has a larger t than the largest for the domain in "
        "19 model(s) with shuffled routers. By number, this model has 4 and they have 3 to 6 (p = "
        "0.4). More specialised than shuffled routers: not shown."
    )
    assert said[3] == "Nothing was found for music."


def test_few_control_models_can_show_nothing(result):
    result["control_models"] = 3
    result["controls"]["random"] = summary(2, 0.375, 0.25)
    said = existence_findings(result)[1]
    assert said.endswith(
        "So few models cannot show more than random weights have: p is never below 0.25 (see "
        "`--controls`)."
    )


def test_nothing_at_all(result):
    result |= {"domains": [domain("math"), domain("law")], "limit": 3}
    first, last = existence_findings(result)
    assert first.startswith("No expert is specific to any domain, of 48 tested")
    assert "no proof that there are none: fewer than 17 could not be declared" in first
    assert "not a result" in last


def test_tables_show_the_figures(result):
    math = shown(specific_by_domain(result))[0]
    assert math == ("math", "1,234", "5,678", "3", "1 to 2", "1 to 2", "0.75 (0.10)")
    beyond = shown(beyond_by_domain(result))
    assert beyond[0] == ("math", "11.0", "8.0", "12.0", "2", "0", "50.0", "20.0", "20.0")
    assert beyond[2] == ("music", "1.5", "8.0", "12.0", "0", "0", "", "20.0", "20.0")
    first = shown(top_experts(result))[0]
    assert first == (
        "math", "3", "7", "60.0%", "10.0%", "50.0", "49.0 to 51.0", "11.0", "6.00",
        "1.10 to 3.00", "0.0123", "random weights",
    )  # fmt: skip
    many = copy.deepcopy(result)
    many["domains"] = [domain("math", *([13.0] * 9))]
    many["domains"][0]["largest_statistic"] = None
    assert len(top_experts(many).rows) == 5
    assert shown(top_experts(many))[0][-1] == "random weights, shuffled routers"
    assert shown(beyond_by_domain(many))[0][1] == "infinite"


@pytest.mark.parametrize(("layers", "found"), [(2, True), (40, True), (2, False)])
def test_page_picture_and_data(result, tmp_path, layers, found):
    result["layers"] = list(range(layers))
    for row in result["domains"]:
        row["by_layer"] = [1] * layers
        for beside in row["controls"].values():
            beside["by_layer"] = [0.5] * layers
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

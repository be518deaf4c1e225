"""The pages of the test by influence and by both say what the results say."""

import copy
import itertools
import json

import pytest

from dsmoe_eval.reports import render_existence_maps
from dsmoe_eval.reports.existence import beyond_by_domain, top_experts
from dsmoe_eval.reports.existence_maps import agreement_finding, map_agreement_table
from dsmoe_eval.studies.existence_maps import ExistenceMaps

from .made import shown
from .test_existence import result  # noqa: F401 - a fixture


@pytest.fixture
def influence(result):  # noqa: F811 - the fixture
    """The same by influence: values in nats per token, no lift."""
    made = copy.deepcopy(result) | {"by": "influence", "form": "exact"}
    for row in made["domains"]:
        for one in row["specific"]:
            one |= {"lift": None, "lift_ci95": None, "rate": 0.004, "rest_rate": -0.001}
            one |= {"difference": 0.005, "difference_ci95": [0.001, 0.009]}
        for control in row["controls"].values():
            control["largest"] = 0.0031
    return made


def agreement(name, both=0, p_value=1.0):
    return {
        "domain": name, "spearman": 0.25, "spearman_ci95": (0.1, 0.4), "by_counts": 3,
        "by_influence": 4, "both": both, "both_by_chance": 0.5, "p_value": p_value,
    }  # fmt: skip


@pytest.fixture
def maps(result, influence):  # noqa: F811
    rows = (agreement("math", 2, 0.001), agreement("law", 1, 0.3), agreement("music"))
    return ExistenceMaps({"counts": result, "influence": influence}, rows)


def test_influence_is_in_thousandths_of_a_nat(influence):
    assert shown(beyond_by_domain(influence))[0] == (
        "math", "11.0", "8.0", "12.0", "2", "0", "5.00", "3.10", "3.10",
    )  # fmt: skip
    assert shown(top_experts(influence))[0] == (
        "math", "3", "7", "4.00", "-1.00", "5.00", "1.00 to 9.00", "11.0", "0.0123",
        "random weights",
    )  # fmt: skip


def test_the_agreement_is_said_with_chance(maps):
    said = agreement_finding(maps)
    assert "Of 9 specific experts by counts and 12 by influence 3 are the same" in said
    assert "where 1.5 would be by chance; more than blind sets would share in: math." in said
    assert "rank correlation of 0.25" in said
    assert shown(map_agreement_table(maps.agreement))[0] == (
        "math", "0.25 [0.10, 0.40]", "3", "4", "2", "0.5", "0.00",
    )  # fmt: skip
    none = ExistenceMaps(maps.tests, (agreement("math"),))
    assert "in no domain more than blind sets" in agreement_finding(none)


def test_the_page_of_one_begins_with_its_findings(influence, tmp_path):
    alone = ExistenceMaps({"influence": influence})
    head = render_existence_maps(alone, tmp_path).read_text().partition("\n## ")[0]
    assert "- Experts are specific to a domain in" in head  # a terminal shows this part


def test_the_page_of_neurons_says_what_raising_one_is(influence, tmp_path):
    dense = influence | {"form": "gradient", "units": "neurons"}
    text = render_existence_maps(ExistenceMaps({"influence": dense}), tmp_path).read_text()
    assert "for multiplying the neuron alone by 1.5, to first order" in " ".join(text.split())
    assert "sigma" not in text
    assert "no selection changes" not in text


def test_the_pages_of_both_and_of_one(maps, influence, tmp_path):
    page = render_existence_maps(maps, tmp_path / "both")
    names = {path.name for path in page.parent.iterdir()}
    assert names == {
        "existence.json", "existence.md", "existence.png", "counts.png", "influence.png",
    }  # fmt: skip
    text = page.read_text()
    assert text.startswith("# Domain-specific experts by counts and by influence: some/model on")
    for words in ("## By counts", "## By influence", "(existence.png)", "the selection that the"):
        assert words in text
    for before, line in itertools.pairwise(text.splitlines()):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")
    assert json.loads((page.parent / "existence.json").read_text())["by"] == "both"
    page = render_existence_maps(ExistenceMaps({"influence": influence}), tmp_path / "one")
    assert json.loads((page.parent / "existence.json").read_text()) == influence
    assert page.read_text().startswith("# Domain-specific experts by influence: some/model on")
    assert "![Specific experts by influence](existence.png)" in page.read_text()


def test_the_page_by_influence_of_neurons_says_what_multiplies_them(influence, tmp_path):
    dense = influence | {"units": "neurons", "form": "gradient"}
    text = render_existence_maps(ExistenceMaps({"influence": dense}), tmp_path).read_text()
    assert "for multiplying the neuron alone by 1.5" in text
    assert "The 200 largest of each domain are in `existence.json`" in text
    assert "may have such neurons too: compare with the controls" in text
    for words in ("sigma", "expert", "gradient form", "while no selection"):
        assert words not in text

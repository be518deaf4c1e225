"""Gains over controls, and the terms of each arm, on a small run with all controls."""

import numpy as np
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.registry import find_card
from dsmoe_eval.reports.render import render
from dsmoe_eval.reports.run_arms import shown_arms, variants_of
from dsmoe_eval.reports.run_controls import (
    control_sentences,
    placebo_gains,
    placebos,
    repeated,
    terms,
    unmatched,
)
from dsmoe_eval.results.cells import read_cell, read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.terms import NAMED_DOMAIN, NOTHING, Matching
from dsmoe_eval.runs import run
from dsmoe_eval.steering import Profile

from .made import shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"targets": ["math"], "variants": ["base", "prompt", "contrast"]}
    plan |= {"controls": "full", "placebo_draws": 2}
    plan["tuning"] = {"expert_counts": [4], "strengths": {"bias": [1.0, 3.0]}}
    path = tmp_path_factory.mktemp("plan") / "controlled.yaml"
    path.write_text(yaml.safe_dump(plan))
    out = tmp_path_factory.mktemp("runs") / "r"
    return run(str(path), out, limit=8, device="cpu", console=Console(quiet=True))


@pytest.fixture(scope="module")
def result(folder):
    return read_finished(folder.root).result


def arm_of(result, variant):
    (found,) = (arm for arm in result.arms if arm.variant == variant)
    return found


def scores(folder, result, variant):
    arm = arm_of(result, variant)
    return read_samples(folder, arm.cells[arm.target_task]).set_index("item")["score"]


def test_every_arm_got_its_controls_with_its_settings(result):
    assert result.variants == (
        "prompt", "contrast", "prompt+wrong", "contrast+matched", "contrast+matched-2",
        "contrast+wrong", "contrast+sham",
    )  # fmt: skip
    of_arm = arm_of(result, "contrast").settings
    for name in result.variants[3:6]:
        found = arm_of(result, name).settings
        assert (found.expert_count, found.strength) == (of_arm.expert_count, of_arm.strength)
    assert arm_of(result, "contrast+sham").settings.strength == 0
    assert arm_of(result, "contrast+sham").equal_to_base


def test_draws_are_other_experts(folder, result):
    drawn = []
    for name in ("contrast", "contrast+matched", "contrast+matched-2"):
        path = folder.profile(name, "math", arm_of(result, name).profile)
        drawn.append({(one.layer, one.expert) for one in Profile.load(path).experts})
    assert not drawn[0] & (drawn[1] | drawn[2])
    assert drawn[1] != drawn[2]


def test_the_gain_over_placebo_is_over_the_mean_of_its_draws(folder, result):
    arm = scores(folder, result, "contrast")
    draws = [scores(folder, result, name)[arm.index] for name in placebos("contrast", result)]
    assert len(draws) == 2
    over = arm_of(result, "contrast").over_placebo
    assert over.delta == pytest.approx(float(arm.mean() - np.mean(draws)))
    ((variant, shows, count),) = shown(placebo_gains(result))
    assert (variant, count) == ("contrast", "2")
    assert float(shows.split()[0]) == pytest.approx(100 * over.delta, abs=0.06)


def test_a_prompt_that_names_the_domain_is_an_arm(folder, result):
    arm, wrong = arm_of(result, "prompt"), arm_of(result, "prompt+wrong")
    assert (arm.settings.line, wrong.settings.line) == ("In math,", "In biology,")
    assert arm.target_result.score_b == 1.0  # by the construction of the lab
    assert arm.specificity.delta == pytest.approx(1 - wrong.target_result.score_b)
    cell = read_cell(folder, arm.cells[arm.target_task])
    assert cell["identity"]["prompt_format"] == "plain, after the line 'In math,'"
    before, after = arm.prompt_tokens
    assert after - before == 3  # In, math, comma
    over = arm_of(result, "contrast").over_prompt
    assert over.delta == pytest.approx(over.score_b - 1)
    assert arm.over_prompt is wrong.over_prompt is None


def test_what_each_arm_learned_from(result):
    assert arm_of(result, "prompt").information == NAMED_DOMAIN
    learned = arm_of(result, "contrast").information
    assert (learned.texts, learned.answers, learned.settings) == (7 * 8, 7 * 8, 2)
    assert arm_of(result, "contrast+matched").information == learned
    rows = {row[0]: row for row in shown(terms(result))}
    assert set(rows) == {"prompt", "contrast"}
    assert rows["contrast"][3:5] == ("56", "56")
    assert NOTHING.words == "nothing"
    said = control_sentences(result)
    assert said[0].startswith("Against the mean of 2 draws of random experts, contrast is better")
    assert said[1].startswith("Against naming the domain in the prompt, contrast (")
    assert ": better on 0 of" in said[1]
    assert "contrast: 56 texts without answers, 56 answered questions, 2 settings tried" in said[-1]


def test_variants_with_the_same_outcome_beside_the_prompt_share_a_sentence(result):
    twins = [
        arm.model_copy(update={"variant": "dsmoe"})
        for arm in result.arms
        if arm.variant == "contrast"
    ]
    said = control_sentences(result.model_copy(update={"arms": [*result.arms, *twins]}))
    (beside,) = [one for one in said if one.startswith("Against naming")]
    assert beside.count("contrast (") == beside.count("dsmoe (") == 1


def test_headlines_leave_out_the_controls_that_are_named_after_arms(folder, result, tmp_path):
    assert variants_of(result) == ["prompt", "contrast"]
    assert len(shown_arms(result)) == 2
    text = render(folder, tmp_path / "report").read_text()
    headline = text.split("Gain over placebo")[0]
    assert "contrast+matched" not in headline
    assert "- `contrast+matched-2`: placebo of contrast: random experts" in text


def test_a_placebo_that_is_not_matched_is_named_with_the_amount(result):
    arm = arm_of(result, "contrast+matched")
    matching = Matching(experts=4, outside=1, largest=-0.4, total=-0.1)
    changed = arm.model_copy(
        update={"settings": arm.settings.model_copy(update={"matching": matching})}
    )
    (said,) = unmatched(result.model_copy(update={"arms": (changed,)}))
    assert "1 of 4 random experts differ by more than 10 %" in said
    assert "the most by -40%; in sum they have -10%" in said


def test_draws_with_the_same_experts_are_named(folder, result):
    assert repeated(folder, result) == []
    path = folder.profile("contrast+matched", "math", arm_of(result, "contrast+matched").profile)
    content = folder.read_json(path)

    class Alike(type(folder)):
        """The run's folder, where each draw has the experts of the first."""

        def read_json(self, _):
            return content

    (said,) = repeated(Alike(folder.root), result)
    assert said.startswith("contrast+matched-2 on math has the same random experts as contrast+mat")

"""Sentences of a report say what `comparisons.json` says, whatever came out."""

import numpy as np
import pytest
from scipy.stats import norm

from dsmoe_eval.reports import run_text
from dsmoe_eval.reports.run_arms import MARKS, lacks_items, run_facets
from dsmoe_eval.reports.run_claims import answers
from dsmoe_eval.reports.run_leaderboard import variants_table
from dsmoe_eval.reports.run_tables import details
from dsmoe_eval.results.paired import Answers, Rates, WholeAnswers
from dsmoe_eval.results.schema import Base, OverlapRow, RunResult
from dsmoe_eval.stats import non_inferiority

from .made import shown, with_figures

UP, DOWN = {"n": 40, "gained": 8, "lost": 0}, {"n": 40, "gained": 0, "lost": 8}
"""Of 40 items: a change of 20 points."""


def test_a_gain_a_loss_and_neither_are_told_apart(result):
    gain = with_figures(result, "contrast", **UP, p_adjusted=0.01)
    loss = with_figures(result, "contrast", **DOWN, p_adjusted=0.01)
    none = with_figures(result, "contrast", **UP, p_adjusted=0.051)
    for changed, words, mark in (
        (gain, "improves 2 of 2 targets (math, physics);", "▲"),
        (loss, "harms 2 of 2 targets", "▼"),
        (none, "improves 0 of 2 targets;", None),
    ):
        (finding,) = [s for s in run_text.findings(changed) if s.startswith("contrast ")]
        assert words in finding
        (row,) = [row for row in shown(variants_table(changed)) if row[0] == "contrast"]
        assert [cell[-1] in "▲▼" for cell in row[1:3]] == [mark is not None] * 2
        assert mark is None or row[1].endswith(mark)


def _generated_gain(result, in_full):
    rates = Rates(mean_tokens=9.0, truncated=0.1, invalid=0.2)
    whole = WholeAnswers(n=30, delta=in_full)
    told = Answers(a=rates, b=rates, n=40, count=40, both_whole=whole)
    return with_figures(result, "contrast", **UP, p_adjusted=0.01, answers=told)


def test_a_gain_of_format_is_called_one(result):
    gain = _generated_gain(result, in_full=0.01)
    words = [s for s in run_text.findings(gain) if "a gain of format or length" in s]
    assert len(words) == 2
    assert "+20.0 pp over all 40 items, and +1.0 pp over the 30 that" in words[0]
    gain = _generated_gain(result, in_full=0.15)
    assert not run_text.format_gains(gain)
    rows = [row for row in shown(answers(gain)) if row[:3] == ("contrast", "math", "target")]
    assert rows[0][3:] == (
        "40", "9.0 to 9.0", "10.0% to 10.0%", "20.0% to 20.0%", "+20.0 pp", "30", "+15.0 pp"
    )  # fmt: skip


def test_answers_that_could_not_be_read_are_told_first():
    def row(domain, **answers):
        rates = Rates(mean_tokens=9.0, **answers) if answers else None
        return Base.model_construct(domain=domain, answers=rates)

    base = [
        row("math", invalid=0.2, truncated=0.51),
        row("physics", invalid=1.0, truncated=0.0),
        row("law", invalid=0.5, truncated=0.5),
        row("history"),
    ]
    (told,) = run_text.unread_answers(RunResult.model_construct(base=base))
    assert "finds: math (51%), physics (100%). Scores" in told
    assert not run_text.unread_answers(RunResult.model_construct(base=base[2:]))


def test_a_sham_that_differs_is_shouted(result):
    first, *others = result.arms
    assert first.variant == "sham"
    figures = first.target_result.model_copy(update={"gained": 1, "lost": 1})
    first = first.model_copy(update={"target_result": figures})
    changed = result.model_copy(update={"arms": (first, *others)})
    (finding,) = [s for s in run_text.findings(changed) if s.startswith("sham ")]
    assert "1 of 2 arms" in finding
    assert "MUST" in finding


def test_an_overlap_that_spares_the_test_split_says_what_it_spoils(result):
    assert run_text.overlap_warning(result) == ""
    item = OverlapRow.model_construct(split="tuning", other_split="identification")
    figures = {"pairs": 1, "items": (item,), "allowed_by": "allow_leakage: true"}
    leakage = result.leakage.model_copy(update=figures)
    warning = run_text.overlap_warning(result.model_copy(update={"leakage": leakage}))
    assert "1 of 54 tuning items repeat items of the identification split. No test item" in warning
    assert "generalise" in warning


def finding(result, variant):
    (found,) = [s for s in run_text.findings(result) if s.startswith(f"{variant} ")]
    return found


def with_non_targets(result, variant, n, gained=0, lost=0):
    """The result with this many non-target items in all, on which a variant differs so."""

    def changed(arm):
        scores = np.zeros(n), np.concatenate([np.ones(gained), np.zeros(n - gained)])
        found = non_inferiority(*scores, result.margin, result.significance_level / 2)
        held = arm.non_targets.non_inferiority.model_copy(
            update={"lower_bound": found.lower_bound, "p_value": found.p_value}
        )
        held.judge(result.levels)
        first = arm.domains[0].model_copy(update={"n": n, "gained": gained, "lost": lost})
        pooled = arm.non_targets.model_copy(update={"non_inferiority": held})
        return arm.model_copy(update={"domains": (first,), "non_targets": pooled})

    arms = tuple(changed(arm) if arm.variant == variant else arm for arm in result.arms)
    return result.model_copy(update={"arms": arms})


@pytest.mark.parametrize("n", [12, 60, 150])
def test_case_23_what_equals_base_and_is_too_small_to_show_it_is_said(result, n):
    few = with_non_targets(result, "contrast", n)
    z = norm.ppf(1 - few.significance_level / 2)
    margin = z * z / (n + z * z)  # Tango's lower bound where no pair is discordant
    for side, expected in ((1.001, True), (0.999, False)):  # the least margin that could be shown
        both = np.zeros(n), np.zeros(n)
        assert non_inferiority(*both, margin * side, 0.025).non_inferior is expected
    said = finding(few, "contrast")
    assert "non-inferior at 2 pp for 0 of 2 targets." in said
    assert (
        f" For math, physics it equals base on every non-target, but {n} items without any "
        f"change can show non-inferiority only at {100 * margin:.1f} pp or more, and the margin is "
        "2 pp."
    ) in said
    (row,) = [row for row in shown(variants_table(few)) if row[0] == "contrast"]
    assert row[-1] == "0 of 2 (2: too few items)"
    rows = [row for row in shown(details(few)) if row[0] == "contrast"]
    assert [row[-2] for row in rows] == ["too few items"] * 2
    assert set(run_facets(few)["mark"]) <= set(MARKS)


def test_case_23_enough_equal_items_or_any_change_is_not_called_too_few(result):
    enough = with_non_targets(result, "contrast", 190)
    assert "non-inferior at 2 pp for 2 of 2 targets." in finding(enough, "contrast")
    changed = with_non_targets(result, "contrast", 60, gained=1)
    for one in (enough, changed):
        assert "equals base" not in finding(one, "contrast")
        assert not any(lacks_items(arm) for arm in one.arms if arm.variant == "contrast")
    (row,) = [row for row in shown(variants_table(changed)) if row[0] == "contrast"]
    assert row[-1] == "0 of 2"
    assert {row[-2] for row in shown(details(changed)) if row[0] == "contrast"} == {"not shown"}


@pytest.mark.parametrize(
    ("mde80", "words"),
    [
        (0.497, "12 items can show 49.7 points or more with 80 % power."),
        (None, "12 items can show no change, however large."),
    ],
)
def test_case_23_headlines_say_what_could_have_been_shown(result, mde80, words):
    unsure = with_figures(result, "contrast", n=12, mde80=mde80, p_adjusted=0.5)
    assert f" No change is shown on math, physics: {words}" in finding(unsure, "contrast")
    gain = with_figures(result, "contrast", **UP, p_adjusted=0.01)
    assert "No change is shown" not in finding(gain, "contrast")


def test_case_23_headlines_give_the_range_over_targets(result):
    first, second = (arm for arm in result.arms if arm.variant == "contrast")
    figures = [{"n": 12, "mde80": 0.497}, {"n": 1200, "mde80": 0.05}]
    arms = [
        arm.model_copy(
            update={"target_result": arm.target_result.model_copy(update=own | {"p_adjusted": 1.0})}
        )
        for arm, own in zip((first, second), figures, strict=True)
    ]
    both = result.model_copy(update={"arms": tuple(arms)})
    assert "12 to 1,200 items can show 5.0 to 49.7 points or more" in finding(both, "contrast")


def test_case_23_headlines_say_where_the_weakest_setting_was_used(result):
    def weakest(arm, qualified):
        settings = arm.settings.model_copy(update={"qualified_on_tuning": qualified})
        return arm.model_copy(update={"settings": settings})

    for qualified in (True, False):
        arms = tuple(
            weakest(arm, qualified) if arm.variant in ("contrast", "random") else arm
            for arm in result.arms
        )
        changed = result.model_copy(update={"arms": arms})
        words = " On math, physics no setting qualified, the weakest was used."
        assert (words in finding(changed, "contrast")) is not qualified
        assert "no setting qualified" not in finding(changed, "random")  # it has contrast's

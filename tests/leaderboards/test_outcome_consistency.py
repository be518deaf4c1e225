"""Entries carry outcomes; what contradicts itself in them is refused, and the board shows them."""

import pytest

from dsmoe_eval.leaderboards.board_tables import arms_table
from dsmoe_eval.leaderboards.consistency import adjustment_faults
from dsmoe_eval.leaderboards.outcome_consistency import outcome_faults
from dsmoe_eval.leaderboards.ranking import rank
from dsmoe_eval.results.finished import read_finished


@pytest.fixture(scope="module")
def folder_of(make_run):
    return make_run(texts=True, items=120, outcome="gold_logprob")


@pytest.fixture(scope="module")
def result(folder_of):
    return read_finished(folder_of).result


def changed(arm, **changes):
    """An arm whose target has other figures by log-probability."""
    gold = arm.outcomes[0]
    target = gold.target.model_copy(update=changes)
    other = gold.model_copy(update={"target": target})
    one = arm.model_copy(update={"outcomes": (other, *arm.outcomes[1:])})
    one.judge(arm.levels)
    return one


def test_figures_of_a_run_fit_each_other(result):
    for arm in result.arms:
        assert list(outcome_faults(arm)) == []
    assert list(adjustment_faults(result.arms)) == []


@pytest.mark.parametrize(
    ("variant", "changes", "rule"),
    [("contrast", {"ci95": (5.0, 6.0)}, "interval"), ("contrast", {"clusters": 999}, "counts"),
     ("contrast", {"p_adjusted": None}, "claim"), ("sham", {"p_adjusted": 1.0}, "sham"),
     ("sham", {"gained": 1}, "sham")],
)  # fmt: skip
def test_what_contradicts_itself_is_a_fault(result, variant, changes, rule):
    arm = next(one for one in result.arms if one.variant == variant)
    assert [name for name, _, _ in outcome_faults(changed(arm, **changes))] == [rule]


def test_a_sham_on_a_quantized_model_equals_that_model_and_not_base(result):
    sham = next(one for one in result.arms if one.variant == "sham")
    rounded = changed(sham, gained=1).model_copy(update={"variant": "contrast-int4+sham"})
    assert list(outcome_faults(rounded)) == []
    gold = rounded.outcomes[0]
    for gained, rules in ((0, []), (1, ["sham"])):
        over = sham.outcomes[0].target.model_copy(update={"gained": gained})
        own = gold.model_copy(update={"over_quantized": over})
        one = rounded.model_copy(update={"outcomes": (own,)})
        one.judge(sham.levels)
        assert [name for name, _, _ in outcome_faults(one)] == rules
    claiming = changed(sham, p_adjusted=1.0).model_copy(update={"variant": "contrast-int4+sham"})
    assert [name for name, _, _ in outcome_faults(claiming)] == ["sham"]


def test_holm_is_checked_by_family(result):
    arms = [
        changed(one, p_adjusted=0.04) if (one.variant, one.target) == ("contrast", "math") else one
        for one in result.arms
    ]
    (found,) = adjustment_faults(arms)
    assert found[1][:2] == ("adjustment", "outcomes[gold_logprob].target.p_adjusted")


def test_a_bound_that_contradicts_its_p_value_is_a_fault(result):
    arm = next(one for one in result.arms if one.variant == "contrast")
    gold = arm.outcomes[0]
    for bound, rules in ((9.0, 2), (None, 1)):
        own = gold.non_targets.non_inferiority.model_copy(update={"lower_bound": bound})
        own = own.model_copy(update={"p_value": 0.9 if bound else 0.001})
        pooled = gold.non_targets.model_copy(update={"non_inferiority": own})
        one = arm.model_copy(
            update={"outcomes": (gold.model_copy(update={"non_targets": pooled}),)}
        )
        one.judge(arm.levels)
        assert [name for name, _, _ in outcome_faults(one)] == ["non-inferiority"] * rules


def test_the_board_shows_them(folder_of, file_runs, runs_of, tmp_path):
    runs = runs_of(file_runs(tmp_path / "board", folder_of))
    rows = rank(runs)
    table = arms_table("subjects", rows)
    names = [column.name for column in table.columns]
    assert names[-2:] == ["gold_logprob", "bits_per_byte"]
    arms = {(arm.variant, arm.target): arm for arm in read_finished(folder_of).result.arms}
    for row in table.rows:
        cells = dict(zip(names, row.cells, strict=True))
        own = arms[cells["variant"].text, cells["target"].text].outcome("bits_per_byte")
        assert cells["bits_per_byte"].number == pytest.approx(own.target.gain, rel=1e-8)

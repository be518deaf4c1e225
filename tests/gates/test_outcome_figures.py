"""Metrics of outcomes are the figures of the result, or are missing with the reason."""

import pytest

from dsmoe_eval.cards import Policy
from dsmoe_eval.gates import decide
from dsmoe_eval.gates.figures import read_figure
from dsmoe_eval.gates.outcome_figures import OF_OUTCOMES
from dsmoe_eval.gates.readings import MissingFigureError
from dsmoe_eval.results.finished import read_finished

from ..leaderboards.conftest import make_run as made  # noqa: F401 - a fixture

KEY = ("contrast", "math")


@pytest.fixture(scope="module")
def run(made):  # noqa: F811
    return read_finished(made(texts=True, items=120, outcome="gold_logprob"))


def test_every_metric_is_a_figure_of_its_outcome(run):
    for metric in OF_OUTCOMES:
        outcome, _, name = metric.partition(".")
        own, found = run.arms[KEY].outcome(outcome), read_figure(run, metric, KEY)
        target = own.over_placebo if "placebo" in name else own.target
        row = own.non_targets if name.startswith("non_target") else target
        if name.endswith("claim"):
            assert found.said == ((row.claim.verdict, row.claim.words),)
        else:
            assert (found.value, found.high) == (row.gain, row.ci95[1])
            bound = own.non_targets.non_inferiority.lower_bound
            low = min(row.ci95[0], bound) if row is own.non_targets else row.ci95[0]
            assert found.low == low


def test_a_policy_may_be_about_an_outcome(run):
    rules = [
        {"name": "gain", "tier": "critical", "metric": "gold_logprob.target_claim",
         "one_of": ["improves"]},
        {"name": "text", "tier": "critical", "metric": "bits_per_byte.target_gain", "at_least": 0},
    ]  # fmt: skip
    policy = Policy.model_validate({"name": "p", "description": "d", "rules": rules})
    verdict = decide(run, policy)
    assert verdict.outcome == "pass"
    assert {ruling.subject for ruling in verdict.rulings} == {
        "contrast on math", "contrast on law",
    }  # fmt: skip


def test_what_is_missing_says_why(run, made):  # noqa: F811
    plain = read_finished(made())
    with pytest.raises(MissingFigureError, match="no task of the run has the outcome bits_per"):
        read_figure(plain, "bits_per_byte.target_gain", KEY)
    with pytest.raises(MissingFigureError, match="the plan has no placebo of this arm"):
        read_figure(run, "gold_logprob.placebo_claim", ("sft-lora", "math"))
    with pytest.raises(MissingFigureError, match=r"target\.claim is missing"):
        read_figure(run, "gold_logprob.target_claim", ("sham", "math"))

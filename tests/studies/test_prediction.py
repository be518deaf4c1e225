"""A profile's predicted effect: on the lab model, and with answers that were made up."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.stats import predict_mean
from dsmoe_eval.steering import ChosenExpert, Intervention
from dsmoe_eval.studies import prediction
from dsmoe_eval.studies.prediction import predict_profile
from dsmoe_eval.studies.questions import Questions, load_questions
from dsmoe_eval.tasks.outcomes import outcome_values

QUIET = Console(quiet=True)
TARGET = "lab_math_unnamed"


@pytest.fixture(scope="module")
def engine():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def profile(engine):
    chosen = tuple(ChosenExpert(layer=layer, expert=3, score=1.0) for layer in (0, 2))
    made = trial_profile(engine.identity, Intervention(kind="bias", strength=1.0), [0])
    source = made.source.model_copy(update={"domain": "math"})
    return made.model_copy(update={"experts": chosen, "source": source})


@pytest.fixture(scope="module")
def questions(profile):
    return load_questions("lab", profile, 4)


def test_the_expected_gain_is_that_of_steered_answers(engine, profile, questions, tmp_path):
    found = predict_profile(engine, profile, questions, root=tmp_path, console=QUIET)
    rows = [one for one in found.effects if (one.part, one.outcome) == ("target", "gold_logprob")]
    assert [one.strength for one in rows] == [0.25, 0.5, 1.0]
    lm, task = engine.language_model(), questions.splits["identification"][TARGET]
    before = outcome_values(lm, [task], "gold_logprob")[TARGET]
    coming = [item.cluster for item in questions.splits["test"][TARGET].items]
    for one in rows:
        with engine.steer(profile.with_strength(one.strength)):
            after = outcome_values(lm, [task], "gold_logprob")[TARGET]
        expected = predict_mean(before, after, None, coming)
        assert one.gain == pytest.approx(expected.delta, abs=1e-5)
        assert one.ci95 == pytest.approx(expected.ci95, abs=1e-4)
    assert (rows[0].items, rows[0].tuning_items, rows[0].test_items) == (4, 4, 4)
    others = [one for one in found.effects if (one.part, one.outcome) == ("non-targets", "score")]
    assert {one.test_items for one in others} == {4 * 6}
    assert found.without == ()
    assert rows[0].first_order is not None


def made_up(monkeypatch, profile, questions, gains, first=None):
    """Predict with gains by share: those of the identification and of the tuning split."""
    noise = {"identification": np.linspace(-0.1, 0.1, 4), "tuning": np.linspace(0.1, -0.1, 4)}
    calls = iter([(0.0, 0.0), *gains])

    def answered(_lm, own, _steps):
        gain = dict(zip(("identification", "tuning"), next(calls), strict=True))
        return {
            split: {TARGET: {"gold_logprob": gain[split] * (1 + noise[split]) - 2 + noise[split]}}
            for split in gain
        }

    slopes = None if first is None else SimpleNamespace(
        of=lambda one, _name: first * one.intervention.strength
    )  # fmt: skip
    only = Questions(questions.suite, "math", {"target": (TARGET,)}, questions.splits, ())
    monkeypatch.setattr(prediction, "_answered", answered)
    monkeypatch.setattr(prediction, "_slopes", lambda *_: slopes)
    monkeypatch.setattr(Questions, "in_format", lambda own, _lm: own)
    monkeypatch.setattr(prediction, "prompt_format", lambda *_: None)
    engine = SimpleNamespace(
        identity=SimpleNamespace(name="m"),
        tokenizer=None,
        language_model=lambda _format: SimpleNamespace(uses_chat_template=False),
        steer=lambda _profile: nullcontext(),
    )
    return predict_profile(engine, profile, only, console=QUIET)


def test_nothing_is_shown_beyond_the_strength_at_which_the_tuning_split_disagrees(
    monkeypatch, profile, questions
):
    gains = [(0.25, 0.26), (0.5, 0.2), (1.0, 1.0)]
    found = made_up(monkeypatch, profile, questions, gains)
    assert [one.holds for one in found.effects] == [True, False, False]
    first, *beyond = found.effects
    assert first.gain == pytest.approx(0.25)
    assert first.ci95[0] < 0.25 < first.ci95[1]
    assert {(one.gain, one.ci95, one.mde80) for one in beyond} == {(None, None, None)}
    assert [one.tuning_gain for one in beyond] == pytest.approx([0.2, 1.0])
    assert found.holds_to("target", "gold_logprob") == 0.25
    assert found.holds_to("target", "score") is None


def test_first_order_is_shown_as_far_as_it_holds_too(monkeypatch, profile, questions):
    gains = [(0.25, 0.25), (0.45, 0.45), (0.6, 0.6)]
    found = made_up(monkeypatch, profile, questions, gains, first=1.0)
    assert [one.holds for one in found.effects] == [True] * 3
    shown = [one.first_order for one in found.effects]
    assert shown[0] == 0.25
    assert shown[2] is None


def test_first_order_is_not_shown_where_one_item_of_each_task_cannot_check_it(
    engine, profile, tmp_path
):
    found = predict_profile(
        engine, profile, load_questions("lab", profile, 1), root=tmp_path, console=QUIET
    )
    rows = [one for one in found.effects if one.outcome == "gold_logprob"]
    assert {one.part for one in rows} == {"target", "non-targets"}
    assert {(one.holds, one.gain, one.first_order) for one in rows} == {(False, None, None)}

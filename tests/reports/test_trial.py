"""The trial's page: what it says of who won, and that it says it."""

import json

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports import render_trial
from dsmoe_eval.reports.trial import _page, verdict

from ..recorded import record


def gain(delta, low, high):
    return {"delta": delta, "ci95": [low, high], "questions": 40, "items": 160}


def row(method, agreement, over_placebo, non_inferior=True):
    figures = {"value": agreement, "ci95": [agreement - 0.1, agreement + 0.1]}
    return {
        "method": method, "agreement_specific": figures, "agreement_plain": figures,
        "gain": over_placebo, "gain_over_placebo": over_placebo,
        "placebo_gain": gain(0, -0.01, 0.01),
        "non_target_delta": -0.004, "non_inferior": non_inferior, "settings": {},
    }  # fmt: skip


def result(*methods):
    return {
        "plan": "p", "model": {"model": "m"}, "domains": ["a", "b"], "items": 1234, "experts": 96,
        "resamples": 10, "chance": 0.1, "layers": [0], "specific": [], "methods": list(methods),
    }  # fmt: skip


CLEAR = row("clear", 0.2, gain(0.10, 0.08, 0.12))
CLOSE = row("close", 0.5, gain(0.05, 0.01, 0.09))
COSTLY = row("costly", 0.1, gain(0.30, 0.25, 0.35), non_inferior=False)
NOTHING = row("nothing", 0.0, gain(0.0, -0.03, 0.03))


def test_the_best_gain_wins_among_those_that_keep_the_rest():
    said = verdict(result(COSTLY, CLEAR, CLOSE, NOTHING))
    assert "agreement with the causal effects `close` wins (0.50)" in said
    assert "`clear` wins (+10.0 [+8.0, +12.0]), which is more than its placebo's" in said
    assert said.endswith("Its interval meets those of close.")


def test_no_winner_is_made_up():
    assert "nobody does: no method kept every non-target" in verdict(result(COSTLY))
    said = verdict(result(NOTHING))
    assert "cannot be told from its placebo's. No other comes near." in said


def test_the_page_shows_every_method_and_its_picture(tmp_path):
    found = result(CLEAR, CLOSE, COSTLY, NOTHING)
    (tmp_path / "trial.json").write_text(json.dumps(found))
    record(tmp_path)
    page = render_trial(tmp_path, tmp_path / "page")
    text = page.read_text()
    assert verdict(found) in text
    assert "smoke test" not in text
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert names == ["method", "---", "costly", "clear", "close", "nothing"]
    assert (tmp_path / "page" / "methods.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "page" / "trial.json").read_text()) == found


def test_an_unfinished_trial_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no trial\.json"):
        render_trial(tmp_path, tmp_path / "page")


def test_agreement_with_raising_is_shown_where_it_was_measured(tmp_path):
    figures = {"value": 0.4, "ci95": [0.35, 0.47]}
    both = {"raised_agreement_specific": figures, "raised_agreement_plain": figures}
    (tmp_path / "trial.json").write_text(json.dumps(result(CLEAR | both, CLOSE | both)))
    record(tmp_path)
    text = render_trial(tmp_path, tmp_path / "page").read_text()
    assert "| raised, specific |" in text
    assert "0.40 [0.35, 0.47]" in text
    assert "raised by half a sigma" in text
    (tmp_path / "trial.json").write_text(json.dumps(result(CLEAR | both, CLOSE)))
    record(tmp_path)
    assert "raised" not in render_trial(tmp_path, tmp_path / "page").read_text()


def test_the_page_of_a_dense_model_says_what_was_masked():
    figures = {"value": 0.05, "ci95": [-0.1, 0.2]}
    both = {"raised_agreement_specific": figures, "raised_agreement_plain": figures}
    groups = {"number": 12, "size": 461, "methods": {}}
    dense = {
        "model": {"model": "m", "limit": 3},
        "units": "neurons",
        "interventions": ["amplify"],
        "unscored": ["other"],
    }
    text = _page(result(NOTHING | both) | dense | {"experts": 46_080, "groups": groups})
    for words in (
        "Limited to 3 item(s) of each task: a smoke test, not a result.",
        "nobody wins: none is above random rankings (0.10)",
        "There are 46,080 neurons, too many to mask one by one.",
        "cut into 12 groups of 461",
        "Nothing was measured on other, of which there is no identification text.",
        "the activations of each group in turn were multiplied by 1.5",
        "All methods steer by `amplify`",
        "Each method is judged on its own groups.",
    ):
        assert words in text
    assert "sigma" not in text

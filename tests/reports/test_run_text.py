"""Sentences of a report say what `comparisons.json` says, whatever came out."""

from dsmoe_eval.reports import run_text
from dsmoe_eval.reports.run_claims import answers
from dsmoe_eval.reports.run_leaderboard import variants_table
from dsmoe_eval.results.paired import Answers, Rates, WholeAnswers
from dsmoe_eval.results.schema import Base, OverlapRow, RunResult

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

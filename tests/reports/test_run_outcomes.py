"""What a report shows of other outcomes: each figure is that of `comparisons.json`."""

import pytest

from dsmoe_eval.reports.run_outcomes import outcome_findings, outcome_sections, primary_words
from dsmoe_eval.results.finished import read_finished

from ..leaderboards.conftest import make_run as made  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def own(made):  # noqa: F811
    return made(texts=True, items=120, outcome="gold_logprob")


@pytest.fixture(scope="module")
def found(own):
    return read_finished(own).result


def test_the_primary_outcome_comes_first_and_is_named(found):
    assert primary_words(found) == (
        "Primary outcome, fixed in the plan: gold_logprob; secondary: score, bits_per_byte."
    )
    first, second = outcome_sections(found)
    assert (first.name, first.primary, second.name, second.primary) == (
        "gold_logprob", True, "bits_per_byte", False,
    )  # fmt: skip
    assert first.title == "Log-probability of the right option (gold_logprob), nats"
    assert "poetry_task" in first.notes[0]
    assert "Less is better" in second.table.caption
    assert "Less is better" not in first.table.caption


def test_tables_and_plots_hold_every_arm_with_its_figures(found):
    arms = {(arm.variant, arm.target): arm for arm in found.arms}
    for section in outcome_sections(found):
        names = [column.name for column in section.table.columns]
        assert len(section.table.rows) == len(arms)
        for row in section.table.rows:
            cells = dict(zip(names, row.cells, strict=True))
            one = arms[cells["variant"].text, cells["target"].text].outcome(section.name)
            assert cells["gain"].number == one.target.gain
            assert cells["base"].number == one.target.level_a
            claim = one.target.claim
            assert cells["claim"].text == ("no claim" if claim is None else claim.verdict)
            assert cells["one-sided bound"].number == one.non_targets.non_inferiority.lower_bound
            assert f"outcomes[{section.name}].target.gain" in cells["gain"].source
            wanted = "-" if one.over_placebo is None else f"{one.over_placebo.gain:+.3f}"
            assert cells["beyond placebo"].text.startswith(wanted)
        tasks = sum(len(arm.outcome(section.name).tasks) for arm in found.arms)
        assert len(section.tasks.rows) == tasks
        target, rest = section.forests
        assert (target.margin, rest.margin) == (None, one.margin)
        for forest, place in ((target, "target"), (rest, "non_targets")):
            for row in forest.rows:
                own = getattr(arms[row.label, row.facets["domain"][0]].outcome(section.name), place)
                assert (row.value, (row.low, row.high)) == (own.gain, own.ci95)
                assert row.words.startswith(f"{own.gain:+.3f} [")
                assert place != "non_targets" or (row.kind == "mark") == own.non_inferior


def test_sentences_count_what_the_tables_mark(found):
    for name, sentences in outcome_findings(found).items():
        role = "primary" if name == "gold_logprob" else "secondary"
        (contrast,) = [one for one in sentences if f"({role}) contrast " in one]
        assert "improves 2 of 2 targets (math, law)" in contrast
        assert not [one for one in sentences if "sham" in one or "random" in one]


def limited(result, clusters):
    """The result as of a run with a limit, whose target comparisons have so many documents."""

    def few(row):
        return row if row is None else row.model_copy(update={"clusters": clusters})

    def fewer(one):
        places = ("target", "over_placebo", "non_targets")
        return one.model_copy(update={name: few(getattr(one, name)) for name in places})

    arms = tuple(
        arm.model_copy(update={"outcomes": tuple(map(fewer, arm.outcomes))}) for arm in result.arms
    )
    header = result.run.model_copy(update={"limit": 2})
    return result.model_copy(update={"arms": arms, "run": header})


def test_a_smoke_test_of_few_documents_claims_nothing(found):
    """A gain of two documents may have any p-value; from eight on it is as in other runs."""
    for section in outcome_sections(limited(found, 7)):
        text = [cell.text for row in section.table.rows for cell in row.cells]
        assert not any("▲" in one or "▼" in one or one == "yes" for one in text)
        assert not {"improves", "harms", "equivalent", "inconclusive"} & set(text)
        assert "too few items: under 8 documents, under a limit" in section.table.caption
        assert not any(row.kind for forest in section.forests for row in forest.rows)
    for sentences in outcome_findings(limited(found, 7)).values():
        for one in sentences:
            assert "can claim nothing, under a limit that leaves fewer than 8 documents" in one
            assert "improves" not in one
            assert "non-inferior" not in one
    enough = limited(found, 8)
    assert outcome_findings(enough) == outcome_findings(found)
    assert [one.table.rows for one in outcome_sections(enough)] == [
        one.table.rows for one in outcome_sections(found)
    ]


def test_a_run_of_scores_alone_has_no_such_section(made):  # noqa: F811
    plain = read_finished(made()).result
    assert outcome_sections(plain) == []
    assert primary_words(plain) == "Primary outcome, fixed in the plan: score."

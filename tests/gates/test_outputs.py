"""The three files, whatever the names in them are."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.cards import Policy
from dsmoe_eval.gates import conclusion, decide, plain, to_junit, to_markdown, write_verdict
from dsmoe_eval.gates.outputs import FILES, SUMMARY_VARIABLE, clear
from dsmoe_eval.registry import load_policy
from dsmoe_eval.results.finished import as_finished

HOSTILE = "]]> <b>&amp;\x00\x1b[31m|`*_[x](http://y)\n# \ud800 é \U0001f600"


def verdict_of(data, name="default"):
    return decide(as_finished(data, "a run"), load_policy(name))


def counted(text):
    suites = ElementTree.fromstring(text)  # noqa: S314 - our own
    cases = suites.findall("testsuite/testcase")
    return {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }, suites


def test_the_files_say_what_the_verdict_says(data, contrast, tmp_path, monkeypatch):
    contrast["target_result"] |= {"score_b": 0.3, "ci95": [-0.3, -0.1]}
    contrast["over_placebo"]["p_adjusted"] = 0.2
    contrast["target_result"]["answers"]["b"]["mean_tokens"] = 90.0
    job = tmp_path / "step.md"
    job.write_text("before\n")
    monkeypatch.setenv(SUMMARY_VARIABLE, str(job))
    verdict = verdict_of(data)
    write_verdict(verdict, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (told["outcome"], told["exit_code"]) == ("fail", 1)
    assert told["not_applied"] == ["target gain since baseline", "non-targets since baseline"]
    counts, suites = counted((tmp_path / "out" / "junit.xml").read_text())
    # The advisory rule is not met and fails nothing.
    assert counts == {"tests": len(verdict.rulings), "failures": 1, "skipped": 2}
    assert suites.get("failures") == suites.find("testsuite").get("failures") == "1"
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert job.read_text() == "before\n" + summary
    first = next(line for line in summary.splitlines() if line.startswith("| unmet"))
    assert "improves its target | contrast on math" in first
    assert summary.startswith("## dsmoe-eval gate: FAIL\n")
    clear(tmp_path / "out")
    assert not any((tmp_path / "out" / name).exists() for name in FILES)
    clear(tmp_path / "never there")


def hostile_verdict(data, text):
    name = (text.replace("\ud800", "") or "x")[:200]  # of YAML, which has no lone surrogates
    rules = [
        {"name": name, "tier": "critical", "metric": "tokens_ratio", "at_most": 0.5},
        {"name": "claim", "tier": "critical", "metric": "target_claim", "one_of": ["harms"]},
    ]
    policy = Policy.model_validate({"name": "p", "description": "d", "rules": rules})
    verdict = decide(as_finished(data, text), policy)
    names = dict.fromkeys(("plan", "suite", "model"), name)
    rulings = tuple(one.model_copy(update={"reason": name}) for one in verdict.rulings)
    return verdict.model_copy(update=names | {"rulings": rulings})


@given(st.one_of(st.just(HOSTILE), st.text()))
def test_hostile_names_stay_text(make_data, text):
    verdict = hostile_verdict(make_data(), text)
    counts, suites = counted(to_junit(verdict))
    assert counts == {"tests": 4, "failures": 4, "skipped": 0}
    assert len(list(suites.iter())) == 1 + 1 + 4 + 4
    table = [line for line in to_markdown(verdict).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    for row in table:
        unescaped = row.replace("\\\\", "").replace("\\|", "")
        assert unescaped.count("|") == 7


def test_markup_is_escaped(data):
    text = to_markdown(hostile_verdict(data, HOSTILE))
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert "\x1b" not in text
    assert "\n# " not in text


def test_lone_surrogates_of_a_json_file_do_not_stop_it(data, tmp_path):
    write_verdict(hostile_verdict(data, HOSTILE), tmp_path)
    counted((tmp_path / "junit.xml").read_text())
    assert json.loads((tmp_path / "verdict.json").read_text())["exit_code"] == 1
    plain(HOSTILE).encode()


@pytest.mark.parametrize("outcome", ["pass", "fail"])
def test_a_summary_names_the_outcome_and_folds_what_is_met(data, contrast, outcome):
    if outcome == "fail":
        contrast["probe"]["null_max_difference"] = 1.0
    text = to_markdown(verdict_of(data))
    assert text.startswith(f"## dsmoe-eval gate: {outcome.upper()}")
    assert "<details><summary>Met: " in text
    assert "Not applied, since no baseline was given: target gain since baseline" in text


def test_case_23_the_last_line_names_the_rules_and_what_to_do(data, contrast):
    assert conclusion(verdict_of(data)) == "pass: a run by policy default"
    contrast["target_result"]["mde80"] = 0.5
    few = "run more items; dsmoe-eval power says how many"
    assert conclusion(verdict_of(data)) == (
        "inconclusive: a run by policy default, because of power on the target (undecided). "
        f"To do: {few}."
    )
    data["variants"].remove("random")
    data["arms"] = [a for a in data["arms"] if a["variant"] != "random"]
    assert conclusion(verdict_of(data)) == (
        "inconclusive: a run by policy default, because of placebo is flat (missing), power on the "
        "target (undecided). To do: add to the plan what the run lacks, or leave the rule out of "
        f"the policy; {few}."
    )
    # What is not critical is not named where a critical rule decides.
    data["run"]["limit"] = 8
    said = "fail: a run by policy default, because of the whole run (unmet). To do: run without"
    assert conclusion(verdict_of(data)) == f"{said} --limit."
    contrast["target_result"] |= {"score_b": 0.3, "ci95": [-0.3, -0.1]}
    assert conclusion(verdict_of(data)).endswith(
        "the whole run (unmet), improves its target (unmet). To do: run without --limit; change "
        "the setting or the method; the report has the figures."
    )
    assert f"\n{conclusion(verdict_of(data))}\n".replace("(", "").replace("-", "") in to_markdown(
        verdict_of(data)
    ).replace("(", "").replace("-", "")


def test_case_23_every_metric_of_the_policies_has_something_to_do(data):
    for name in ("default", "strict"):
        for wanted in load_policy(name).rules:
            for state in ("unmet", "undecided", "missing"):
                one = (
                    verdict_of(data)
                    .rulings[0]
                    .model_copy(
                        update={"state": state, "metric": wanted.metric, "tier": "critical"}
                    )
                )
                outcome = {"undecided": "inconclusive"}.get(state, "fail")
                made = verdict_of(data).model_copy(update={"rulings": (one,), "outcome": outcome})
                assert conclusion(made).partition("To do: ")[2] not in ("", ".")

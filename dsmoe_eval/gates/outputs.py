"""The files of a verdict: `verdict.json`, `junit.xml` and `summary.md`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ..files import write_json, write_text
from .verdict import Ruling, Verdict

FILES = ("verdict.json", "junit.xml", "summary.md")
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""The variable that may name a file, as in a GitHub job; the summary is appended to that file."""

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!&@]|:(?=//))")
_SHOWN = 300
_FIXES: Mapping[str, str] = {
    "whole_run": "run without --limit",
    "probes_passed": "find out by dsmoe-eval probe why steering does not act as it must",
    "sham_equals_base": "find out what besides steering differs from base",
    "leaked_items": "give the splits other items; dsmoe-eval leakage lists those that repeat",
    "invalid_rate": "read the answers in the report, and correct the task's rule of extraction",
    "gain_not_lost": "compare experts and routing of both models by dsmoe-eval regress",
    "truncated_rate": "let the tasks generate more tokens (max_gen_toks)",
}
"""Metric -> what to do about a rule that is not met."""
_ORDER = {"fail": 0, "inconclusive": 1, "pass": 2}


def clear(folder: Path) -> None:
    """Remove an earlier verdict: a run that could not be decided must leave none behind."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """Write the three files, and append the summary to the job's summary if there is one."""
    summary = to_markdown(verdict)
    write_json(folder / "verdict.json", verdict.model_dump(mode="json"))
    write_text(folder / "junit.xml", to_junit(verdict))
    write_text(folder / "summary.md", summary)
    if job := os.environ.get(SUMMARY_VARIABLE):
        with Path(job).open("a", encoding="utf-8") as file:
            file.write(summary)


def to_junit(verdict: Verdict) -> str:
    """Return one JUnit case per ruling.

    A ruling that fails the run is a failure, any other that is not met is skipped.
    """
    cases = [_case(verdict, ruling) for ruling in verdict.rulings]
    failures = sum(case.find("failure") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "dsmoe-eval gate", **counts})
    name = _xml(f"{verdict.policy}: {verdict.plan}")
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": name, **counts, "skipped": str(skipped)}
    )
    suite.extend(cases)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(verdict: Verdict, ruling: Ruling) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        {
            "classname": _xml(f"{verdict.policy}.{ruling.tier}"),
            "name": _xml(f"{ruling.rule}: {ruling.subject}"),
        },
    )
    if ruling.state != "met":
        kind = "failure" if ruling.weighs == "fail" else "skipped"
        message = _xml(f"{ruling.state}: {ruling.reason} (wanted: {ruling.wanted})")
        ElementTree.SubElement(case, kind, {"message": message})
    return case


def _xml(text: str) -> str:
    """Return the text without the characters that XML forbids, escaped or not."""
    return _NOT_XML.sub("\ufffd", text)


def conclusion(verdict: Verdict) -> str:
    """Return the outcome in one line: the rules that decided it, and what to do about them."""
    said = f"{verdict.outcome}: {verdict.run} by policy {verdict.policy}"
    if verdict.outcome == "pass":
        return said
    deciding = [one for one in verdict.rulings if one.weighs == verdict.outcome]
    rules = dict.fromkeys(f"{one.rule} ({one.state})" for one in deciding)
    fixes = dict.fromkeys(map(_fix, deciding))
    return f"{said}, because of {', '.join(rules)}. To do: {'; '.join(fixes)}."


def _fix(ruling: Ruling) -> str:
    if ruling.state == "missing":
        return "add to the plan what the run lacks, or leave the rule out of the policy"
    if ruling.state == "undecided":
        return "run more items; dsmoe-eval power says how many"
    return _FIXES.get(ruling.metric, "change the setting or the method; the report has the figures")


def to_markdown(verdict: Verdict) -> str:
    """Return the decision and its reasons in Markdown.

    The most serious ruling comes first; those that are met are folded away.
    """
    rulings = sorted(verdict.rulings, key=lambda one: _ORDER[one.weighs])
    open_ = [one for one in rulings if one.state != "met"]
    met = [one for one in rulings if one.state == "met"]
    lines = [
        f"## dsmoe-eval gate: {verdict.outcome.upper()}",
        "",
        f"{_text(verdict.model)} on suite {_text(verdict.suite)}, plan {_text(verdict.plan)}, "
        f"policy {_text(verdict.policy)}. Of {len(rulings)} rulings {len(met)} are met"
        + "".join(f", {count} {state}" for state, count in _counts(open_))
        + ".",
        "",
        _escape(conclusion(verdict)),
        "",
    ]
    if open_:
        lines += [*_table(open_), ""]
    if verdict.baseline is not None:
        lines += [f"Baseline: {_text(verdict.baseline)}.", ""]
    if verdict.not_applied:
        names = ", ".join(_text(name) for name in verdict.not_applied)
        lines += [f"Not applied, since no baseline was given: {names}.", ""]
    if met:
        lines += [f"<details><summary>Met: {len(met)}</summary>", "", *_table(met), ""]
        lines += ["</details>", ""]
    return "\n".join(lines)


def _counts(rulings: Sequence[Ruling]) -> list[tuple[str, int]]:
    states = [one.state for one in rulings]
    return [(state, states.count(state)) for state in dict.fromkeys(states)]


def _table(rulings: Sequence[Ruling]) -> list[str]:
    rows = [(one.state, one.tier, one.rule, one.subject, one.wanted, one.reason) for one in rulings]
    header = ["state", "tier", "rule", "of", "wanted", "found"]
    return [
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(f"| {' | '.join(map(_text, row))} |" for row in rows),
    ]


def _text(text: str) -> str:
    """Escape text so that Markdown shows it literally, on one line that is not too long."""
    line = plain(text)
    return _escape(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")


def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\1", plain(text))


def plain(text: str) -> str:
    """Return the text on one line, without characters that a terminal could take for a command."""
    return " ".join(_xml(text).split())

"""The verdict on a run by a policy, which feeds every output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import computed_field

from ..cards import Policy, Rule
from ..cards.policies import RUN_METRICS, Tier
from ..errors import UserError
from ..results.finished import FinishedRun, Key
from ..results.paired import Record
from .baseline import Baseline
from .figures import read_figure
from .readings import Check, Claims, Measurement, MissingFigureError, Reading

State = Literal["met", "unmet", "undecided", "missing"]
Outcome = Literal["pass", "fail", "inconclusive"]
SCHEMA_VERSION: Literal[1] = 1
"""The version of `verdict.json`."""
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 2}


class Ruling(Record):
    """The result of one rule on one arm, or on the run.

    Attributes:
        rule: its name.
        subject: "VARIANT on TARGET", or "the run".
        state: `missing`: the figure does not exist, or there is no such arm.
        value: the figure; None if it is a claim or a check, or is missing.
        interval: the figure's interval; None if it has none.
        wanted: the rule's requirement, in words.
        reason: why the state is what it is, in words.
    """

    rule: str
    tier: Tier
    metric: str
    subject: str
    state: State
    value: float | None
    interval: tuple[float, float] | None
    wanted: str
    reason: str

    @computed_field  # type: ignore[prop-decorator]  # as in the docs of pydantic
    @property
    def weighs(self) -> Outcome:
        """The outcome of the run that this ruling alone would give."""
        if self.tier == "advisory" or self.state == "met":
            return "pass"
        # What is missing is no evidence; a critical rule may not be without it.
        decided = self.state in ("unmet", "missing")
        return "fail" if decided and self.tier == "critical" else "inconclusive"


class Verdict(Record):
    """The gate's verdict on a run, with all its reasons: the content of `verdict.json`.

    Attributes:
        outcome: the worst outcome of any ruling.
        run: the source of the result; `plan`, `suite`, `model` are the run's.
        policy: name of the policy.
        baseline: the source of the baseline; None: there was none.
        rulings: in the order of the policy's rules.
        not_applied: names of rules that need a baseline.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    outcome: Outcome
    run: str
    plan: str
    suite: str
    model: str
    policy: str
    baseline: str | None
    rulings: tuple[Ruling, ...]
    not_applied: tuple[str, ...]

    @computed_field  # type: ignore[prop-decorator]  # as in the docs of pydantic
    @property
    def exit_code(self) -> int:
        """The exit code: 0 pass, 1 fail, 2 inconclusive."""
        return EXIT_CODES[self.outcome]


def decide(run: FinishedRun, policy: Policy, baseline: Baseline | None = None) -> Verdict:
    """Check a run against a policy.

    A rule about no arm at all lacks its figure. The rules must all be met, so no level is split
    among them: passing is an intersection-union test (Berger 1982, Technometrics 24:295).

    Raises:
        UserError: the policy requires a baseline and none is given.
    """
    if policy.baseline == "required" and baseline is None:
        raise UserError(f"policy {policy.name!r} requires a baseline; give --baseline RUN")
    applied = [rule for rule in policy.rules if rule.against == "bound" or baseline is not None]
    rulings = tuple(
        _rule(run, rule, key, baseline) for rule in applied for key in _subjects(rule, policy, run)
    )
    weights = {ruling.weighs for ruling in rulings}
    outcome: Outcome = "pass"
    for worse in ("inconclusive", "fail"):
        outcome = worse if worse in weights else outcome
    return Verdict(
        outcome=outcome,
        run=_text(run.name),
        plan=run.result.plan,
        suite=run.result.suite,
        model=run.result.run.model,
        policy=policy.name,
        baseline=None if baseline is None else _text(baseline.name),
        rulings=rulings,
        not_applied=tuple(rule.name for rule in policy.rules if rule not in applied),
    )


def _text(path: str) -> str:
    """Replace what is not valid text in a path: file names need not be valid text."""
    return path.encode(errors="replace").decode()


def _subjects(rule: Rule, policy: Policy, run: FinishedRun) -> Iterator[Key | None]:
    """Yield the arms that a rule is about; None: the run; an arm without names: there is no arm."""
    if rule.metric in RUN_METRICS:
        yield None
        return
    steered = [v.name for v in run.variants if v.is_tuned and not v.zero_strength]
    variants = rule.variants or policy.variants or steered
    targets = rule.targets or policy.targets or run.result.targets
    if not variants:
        yield "", ""
    yield from ((variant, target) for variant in variants for target in targets)


def _rule(run: FinishedRun, rule: Rule, key: Key | None, baseline: Baseline | None) -> Ruling:
    state: State = "missing"
    value, interval = None, None
    try:
        if key == ("", ""):
            raise MissingFigureError("the run has no steered arm that is no control")
        found = _reading(run, rule, key, baseline)
    except MissingFigureError as error:
        reason = str(error)
    else:
        state, reason = _judge(rule, found)
        if isinstance(found, Measurement):
            value = found.value if math.isfinite(found.value) else None
            if found.low is not None and found.high is not None:
                interval = found.low, found.high
    return Ruling(
        rule=rule.name,
        tier=rule.tier,
        metric=rule.metric,
        subject="the run" if key is None else " on ".join(key) if any(key) else "no arm",
        state=state,
        value=value,
        interval=interval,
        wanted=_wanted(rule),
        reason=reason,
    )


def _reading(run: FinishedRun, rule: Rule, key: Key | None, baseline: Baseline | None) -> Reading:
    if rule.against == "bound":
        return read_figure(run, rule.metric, key)
    if baseline is None or key is None:
        raise MissingFigureError("there is no baseline")
    return baseline.change(rule.metric, key)


def _judge(rule: Rule, found: Reading) -> tuple[State, str]:
    if isinstance(found, Check):
        return ("met" if found.passed else "unmet"), found.words
    if isinstance(found, Claims):
        return _judge_claims(rule, found)
    words = f"; {found.words}" if found.words else ""
    if found.low is None or found.high is None:
        state: State = "met" if _within(rule, found.value, found.value) else "unmet"
        if state == "unmet" and rule.metric == "target_mde80":
            state = "undecided"  # too few items for a verdict is no fault of the arm
        return state, f"{found.value:.4g}{words}"
    shown = f"{found.value:+.4f}, interval {found.low:+.4f} to {found.high:+.4f}{words}"
    return _judge_interval(rule, found.low, found.high), shown


def _within(rule: Rule, low: float, high: float) -> bool:
    return (rule.at_least is None or low >= rule.at_least) and (
        rule.at_most is None or high <= rule.at_most
    )


def _judge_interval(rule: Rule, low: float, high: float) -> State:
    """Judge an interval; an end exactly on the bound does not pass, as in `non_inferiority`."""
    if low == high:  # nothing is uncertain
        return "met" if _within(rule, low, high) else "unmet"
    below = rule.at_least is not None and high < rule.at_least
    above = rule.at_most is not None and low > rule.at_most
    if below or above:
        return "unmet"
    reaches_low = rule.at_least is not None and low <= rule.at_least
    reaches_high = rule.at_most is not None and high >= rule.at_most
    return "undecided" if reaches_low or reaches_high else "met"


def _judge_claims(rule: Rule, found: Claims) -> tuple[State, str]:
    allowed = rule.one_of or ()
    other = [words for verdict, words in found.said if verdict not in (*allowed, "inconclusive")]
    if other:
        return "unmet", "; ".join(other)
    unsure = [words for verdict, words in found.said if verdict == "inconclusive"]
    if unsure or not found.said:
        return "undecided", "; ".join(unsure)
    return "met", "; ".join(words for _, words in found.said)


def _wanted(rule: Rule) -> str:
    if rule.one_of:
        return " or ".join(rule.one_of)
    parts = [
        f"{words} {bound:g}"
        for words, bound in (("at least", rule.at_least), ("at most", rule.at_most))
        if bound is not None
    ]
    since = " since the baseline" if rule.against == "baseline" else ""
    return (" and ".join(parts) or "yes") + since

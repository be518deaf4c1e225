"""The figures that a policy's rules are about, read from a run's result; missing is an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..results.arms import Arm
from ..results.finished import FinishedRun, Key
from ..results.paired import Domain, Paired
from ..variants import controls_for, get_variant
from .outcome_figures import OF_OUTCOMES
from .readings import Check, Claims, Measurement, MissingFigureError, Reading

_CONTROLS = {
    "over_placebo": "placebo of this arm: VARIANT+matched, or random for contrast",
    "over_prompt": "arm `prompt`, which names the domain, or this is that arm",
    "specificity": "wrong-domain control of this arm: VARIANT+wrong, or wrong-domain for contrast",
    "over_quantized": "arm base-FORM of this arm, or this arm is not on a quantized model",
}


def read_figure(run: FinishedRun, metric: str, key: Key | None) -> Reading:
    """Return a figure of an arm, or of the run if `key` is None.

    Raises:
        MissingFigureError: it does not exist.
    """
    if key is None:
        return _OF_RUN[metric](run)
    if key not in run.arms:
        raise MissingFigureError(f"the run has no arm {key[0]} on {key[1]}")
    return _OF_ARM[metric](run, key)


def _target(arm: Arm) -> Paired:
    return arm.target_result


def _over(name: str) -> Callable[[Arm], Paired]:
    """Return a reader of the comparison with a control; a plan may lack the control."""

    def read(arm: Arm) -> Paired:
        row = arm.comparisons.get(name)
        if row is None:
            raise MissingFigureError(f"the plan has no {_CONTROLS[name]}")
        return row

    return read


def _change(comparison: Callable[[Arm], Paired]) -> Callable[[FinishedRun, Key], Measurement]:
    def read(run: FinishedRun, key: Key) -> Measurement:
        row = comparison(run.arms[key])
        return Measurement(row.delta, *row.ci95)

    return read


def _held(row: Paired) -> tuple[float, float]:
    """Return the interval of a non-target change; its lower end is at most the plan's bound."""
    low, high = row.ci95
    return (low if row.non_inferiority is None else min(low, row.non_inferiority.lower_bound)), high


def _non_target_change(run: FinishedRun, key: Key) -> Reading:
    row = run.arms[key].non_target_result
    return Measurement(row.delta, *_held(row))


def _worst_domain_change(run: FinishedRun, key: Key) -> Reading:
    """Return the worst domain's change, with an interval that covers all domains.

    All domains are non-inferior if each one is (intersection-union); one fell only if it is
    significant after Holm's correction.
    """
    rows = run.arms[key].domains
    ends = [_held(row) for row in rows]
    highs = [high for row, (_, high) in zip(rows, ends, strict=True) if _fell(row)]
    high = min(highs) if highs else max(high for _, high in ends)
    worst = min(reversed(rows), key=lambda row: row.delta)
    return Measurement(
        worst.delta, min(low for low, _ in ends), high, words=f"worst: {worst.domain}"
    )


def _fell(row: Domain) -> bool:
    if row.p_adjusted is None:
        raise MissingFigureError("p_adjusted is missing")
    return row.p_adjusted <= row.levels.significance_level and row.delta < 0


def _retention(run: FinishedRun, key: Key) -> Reading:
    """Return the retention; its interval is that of the change, divided by base's score.

    Near 1 this is the delta method's interval of the ratio.
    """
    arm = run.arms[key]
    row, value = arm.non_target_result, arm.generalization.retention
    if value is None:
        raise MissingFigureError(
            "base scores nothing on the non-targets, so nothing can be retained"
        )
    low, high = row.ci95
    return Measurement(value, 1 + low / row.score_a, 1 + high / row.score_a)


def _placebo_gain(run: FinishedRun, key: Key) -> Reading:
    """Return the gain of the placebo, of several draws the largest."""
    placebos = controls_for(get_variant(key[0]), "random_matched", run.variants)
    if not placebos:
        raise MissingFigureError(f"the plan has no placebo of {key[0]}")
    gains = [_change(_target)(run, (placebo.name, key[1])) for placebo in placebos]
    return max(gains, key=lambda gain: gain.value)


def _predicted_gain(run: FinishedRun, key: Key) -> Reading:
    """Return the gain on the target that was foretold, by the plan's primary outcome."""
    foretold, name = run.result.foretold, run.result.outcome
    if foretold is None:
        raise MissingFigureError(
            "the run foretold nothing; write `foretell: true` in its plan and run it again"
        )
    arm = foretold.arm(*key)
    row = None if arm is None else arm.change(run.arms[key].target_task, name)
    if row is None:
        raise MissingFigureError(f"the target's {name} was not foretold")
    if row.ci95 is None:
        raise MissingFigureError("no prediction interval, since all items are one cluster")
    return Measurement(row.gain, *row.ci95, words=f"foretold from {row.n} items")


def _mde80(run: FinishedRun, key: Key) -> Reading:
    value = run.arms[key].target_result.mde80
    if value is None:
        return Measurement(math.inf, words="no change, however large, could have been shown")
    return Measurement(value)


def _tokens_ratio(run: FinishedRun, key: Key) -> Reading:
    value = run.arms[key].generalization.tokens_ratio
    if value is None:
        raise MissingFigureError("generalization.tokens_ratio is None, which is no number")
    return Measurement(value)


def _of_arm(read: Callable[[Arm], float]) -> Callable[[FinishedRun, Key], Reading]:
    return lambda run, key: Measurement(read(run.arms[key]))


def _claim(
    where: str, comparison: Callable[[Arm], Paired]
) -> Callable[[FinishedRun, Key], Reading]:
    return lambda run, key: Claims((_said(comparison(run.arms[key]), f"{where}.claim"),))


def _domain_claims(run: FinishedRun, key: Key) -> Reading:
    said = [(row.domain, *_said(row, "claim")) for row in run.arms[key].domains]
    return Claims(tuple((verdict, f"{domain}: {words}") for domain, verdict, words in said))


def _said(row: Paired, where: str) -> tuple[str, str]:
    claim = row.claim
    if claim is None:
        raise MissingFigureError(f"{where} is missing")
    return claim.verdict, claim.words


def _probes_passed(run: FinishedRun, key: Key) -> Reading:
    if not get_variant(key[0]).has_profile:
        return Check(True, "nothing is steered")
    probe = run.arms[key].probe
    if probe is None:
        raise MissingFigureError("probe.null_max_difference is missing")
    null, effect = probe.null_max_difference, probe.logit_max_change
    words = f"strength zero differs by {null:g}, the profile moves logits by up to {effect:.3g}"
    return Check(null == 0 and effect > 0, words)


def _sham_equals_base(run: FinishedRun) -> Reading:
    shams = [variant.name for variant in run.variants if variant.zero_strength]
    if not shams:
        raise MissingFigureError("the plan has no sham")
    keys = [(variant, target) for variant in shams for target in run.result.targets]
    wrong = [" on ".join(key) for key in keys if not run.result.equals_model(run.arms[key])]
    number = len(run.result.targets)
    return Check(not wrong, f"differs: {', '.join(wrong)}" if wrong else f"on {number} targets")


def _whole_run(run: FinishedRun) -> Reading:
    limit = run.result.run.limit
    return Check(
        limit is None, "every item" if limit is None else f"a smoke test of {limit} items a task"
    )


def _leaked_items(run: FinishedRun) -> Reading:
    return Measurement(float(run.result.leakage.pairs))


_OF_RUN: Mapping[str, Callable[[FinishedRun], Reading]] = {
    "sham_equals_base": _sham_equals_base,
    "whole_run": _whole_run,
    "leaked_items": _leaked_items,
}
_OF_ARM: Mapping[str, Callable[[FinishedRun, Key], Reading]] = {
    "target_claim": _claim("target_result", _target),
    "non_target_claim": _claim("non_target_result", lambda arm: arm.non_target_result),
    "domain_claims": _domain_claims,
    "placebo_claim": _claim("generalization.over_placebo", _over("over_placebo")),
    "specificity_claim": _claim("generalization.specificity", _over("specificity")),
    "target_gain": _change(_target),
    "non_target_change": _non_target_change,
    "worst_domain_change": _worst_domain_change,
    "retention": _retention,
    "gain_over_placebo": _change(_over("over_placebo")),
    "gain_over_prompt": _change(_over("over_prompt")),
    "gain_over_quantized": _change(_over("over_quantized")),
    "placebo_gain": _placebo_gain,
    "specificity": _change(_over("specificity")),
    "predicted_gain": _predicted_gain,
    "target_mde80": _mde80,
    "flipped_target": _of_arm(lambda arm: arm.generalization.flipped.target),
    "flipped_non_target": _of_arm(lambda arm: arm.generalization.flipped.non_target),
    "tokens_ratio": _tokens_ratio,
    "invalid_rate": _of_arm(lambda arm: arm.generalization.invalid),
    "truncated_rate": _of_arm(lambda arm: arm.generalization.truncated),
    "probes_passed": _probes_passed,
    **OF_OUTCOMES,
}

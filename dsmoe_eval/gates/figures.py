"""The figures that a policy's rules are about, read from a run's result; missing is an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..results.finished import FinishedRun, Key
from ..variants import control_for, get_variant

_CONTROLS = {
    "over_placebo": "placebo of this arm: VARIANT+matched, or random for contrast",
    "specificity": "wrong-domain control of this arm: VARIANT+wrong, or wrong-domain for contrast",
}
_LARGEST = 1e300


class MissingFigureError(Exception):
    """A figure that a rule needs is not there, or is no figure; says which."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, with its interval where it has one. Fractions.

    Attributes:
        value: infinite where no bound could be met.
        low: lower end of the interval; None where there is none.
        high: upper end.
        words: what else should be known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Claims:
    """What may be claimed, of each comparison that the figure is about: (verdict, words)."""

    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that is so or is not."""

    passed: bool
    words: str


Reading = Figure | Claims | Check


def read_figure(result: FinishedRun, metric: str, key: Key | None) -> Reading:
    """A figure of an arm, or of the run where `key` is None.

    Raises:
        MissingFigureError: it is not there or is none.
    """
    if key is None:
        return _OF_RUN[metric](result)
    if key not in result.arms:
        raise MissingFigureError(f"the run has no arm {key[0]} on {key[1]}")
    return _OF_ARM[metric](result, key)


def at(row: Any, *path: str) -> Any:
    """What stands at a path of keys.

    Raises:
        MissingFigureError: nothing does.
    """
    for place, name in enumerate(path):
        if row is None and path[place - 1] in _CONTROLS:
            raise MissingFigureError(f"the plan has no {_CONTROLS[path[place - 1]]}")
        if not isinstance(row, Mapping) or name not in row:
            raise MissingFigureError(f"{'.'.join(path[: place + 1])} is missing")
        row = row[name]
    return row


def number(row: Any, *path: str) -> float:
    """A finite number at a path of keys.

    Raises:
        MissingFigureError: there is none.
    """
    return _as_number(at(row, *path), ".".join(path))


def _as_number(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _LARGEST:  # as NaN, and integers that are no float
        raise MissingFigureError(f"{where} is {value!r:.30}, which is no number")
    return float(value)


def interval(row: Any, *path: str) -> tuple[float, float]:
    """The 95 % interval of a comparison at a path of keys.

    Raises:
        MissingFigureError: there is none.
    """
    ends = at(row, *path, "ci95")
    where = ".".join((*path, "ci95"))
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise MissingFigureError(f"{where} is {ends!r:.30}, which is no interval")
    return _ordered(_as_number(ends[0], where), _as_number(ends[1], where), where)


def _ordered(low: float, high: float, where: str) -> tuple[float, float]:
    if low > high:
        raise MissingFigureError(f"{where} ends before it begins")
    return low, high


def _change(*path: str) -> Callable[[FinishedRun, Key], Reading]:
    def read(result: FinishedRun, key: Key) -> Reading:
        arm = result.arms[key]
        return Figure(number(arm, *path, "delta"), *interval(arm, *path))

    return read


def _held(row: Any, *path: str) -> tuple[float, float]:
    """The interval of a non-target change; its lower end no higher than the plan's own bound."""
    low, high = interval(row, *path)
    return min(low, number(row, *path, "non_inferiority", "lower_bound")), high


def _non_target_change(result: FinishedRun, key: Key) -> Reading:
    arm, where = result.arms[key], "non_target_result"
    return Figure(number(arm, where, "delta"), *_held(arm, where))


def _worst_domain_change(result: FinishedRun, key: Key) -> Reading:
    """All domains hold where each does (intersection-union); one fell only where Holm says so."""
    rows, alpha = result.arms[key]["domains"], number(result.data, "alpha")
    changes = {number(row, "delta"): str(row.get("domain")) for row in rows}
    ends = [_held(row) for row in rows]
    fell = [number(row, "p_adjusted") <= alpha and number(row, "delta") < 0 for row in rows]
    highs = [high for (_, high), has in zip(ends, fell, strict=True) if has]
    high = min(highs) if highs else max(high for _, high in ends)
    worst = min(changes)
    return Figure(worst, min(low for low, _ in ends), high, words=f"worst: {changes[worst]}")


def _retention(result: FinishedRun, key: Key) -> Reading:
    """Near 1 the delta method's interval of the ratio: that of the change, over base's score."""
    arm, where = result.arms[key], "non_target_result"
    base = number(arm, where, "score_a")
    if not base > 0:
        raise MissingFigureError(
            "base scores nothing on the non-targets, so nothing can be retained"
        )
    low, high = interval(arm, where)
    value = number(arm, "generalization", "retention")
    return Figure(value, 1 + low / base, 1 + high / base)


def _placebo_gain(result: FinishedRun, key: Key) -> Reading:
    placebo = control_for(get_variant(key[0]), "matched", result.variants)
    if placebo is None:
        raise MissingFigureError(f"the plan has no placebo of {key[0]}")
    return _change("target_result")(result, (placebo.name, key[1]))


def _mde80(result: FinishedRun, key: Key) -> Reading:
    value = at(result.arms[key], "target_result", "mde80")
    if value is None:  # as comparisons.json says "no effect is large enough"
        return Figure(math.inf, words="no change, however large, could have been shown")
    return Figure(number(result.arms[key], "target_result", "mde80"))


def _of_generalization(*path: str) -> Callable[[FinishedRun, Key], Reading]:
    return lambda result, key: Figure(number(result.arms[key], "generalization", *path))


def _claim(*path: str) -> Callable[[FinishedRun, Key], Reading]:
    return lambda result, key: Claims((_said(result, result.arms[key], *path),))


def _domain_claims(result: FinishedRun, key: Key) -> Reading:
    rows = result.arms[key]["domains"]
    said = [(str(row.get("domain")), *_said(result, row)) for row in rows]
    return Claims(tuple((verdict, f"{domain}: {words}") for domain, verdict, words in said))


def _said(result: FinishedRun, row: Any, *path: str) -> tuple[str, str]:
    """A claim, which the figures beside it must bear out."""
    verdict, words = (at(row, *path, "claim", name) for name in ("verdict", "words"))
    alpha, margin = (number(result.data, name) for name in ("alpha", "margin"))
    delta, p_value = (number(row, *path, name) for name in ("delta", "p_adjusted"))
    low, high = interval(row, *path)
    borne_out = "equivalent" if -margin < low and high < margin else "inconclusive"
    if p_value <= alpha and delta != 0:
        borne_out = "improves" if delta > 0 else "harms"
    if verdict != borne_out:
        raise MissingFigureError(
            f"{'.'.join((*path, 'claim.verdict'))} is {verdict!r:.30}, but its figures say "
            f"{borne_out}"
        )
    return verdict, str(words)


def _probes_passed(result: FinishedRun, key: Key) -> Reading:
    if get_variant(key[0]).kind != "steered":
        return Check(True, "nothing is steered")
    arm = result.arms[key]
    null, effect = (
        number(arm, "probe", name) for name in ("null_max_difference", "logit_max_change")
    )
    words = f"strength zero differs by {null:g}, the profile moves logits by up to {effect:.3g}"
    return Check(null == 0 and effect > 0, words)


def _sham_equals_base(result: FinishedRun) -> Reading:
    shams = [variant.name for variant in result.variants if variant.null]
    if not shams:
        raise MissingFigureError("the plan has no sham")
    wrong = []
    for variant, target in ((v, t) for v in shams for t in result.targets):
        equal = at(result.arms[variant, target], "equal_to_base")
        if not isinstance(equal, bool):
            raise MissingFigureError(f"equal_to_base of {variant} on {target} is {equal!r:.30}")
        wrong += [] if equal else [f"{variant} on {target}"]
    words = f"differs: {', '.join(wrong)}" if wrong else f"on {len(result.targets)} targets"
    return Check(not wrong, words)


def _whole_run(result: FinishedRun) -> Reading:
    rehearsal = at(result.data, "rehearsal")
    if not isinstance(rehearsal, bool):
        raise MissingFigureError(f"rehearsal is {rehearsal!r:.30}")
    limit = at(result.data, "run", "limit")
    passed = not rehearsal and limit is None
    return Check(passed, "every item" if passed else f"a rehearsal of {limit!r:.30} items a task")


def _leaked_items(result: FinishedRun) -> Reading:
    items, checked = (at(result.data, "leakage", name) for name in ("items", "checked"))
    if not isinstance(items, list) or not isinstance(checked, list) or not checked:
        raise MissingFigureError("leakage was not checked")
    return Figure(max(number(result.data, "leakage", "pairs"), float(len(items))))


_OF_RUN: Mapping[str, Callable[[FinishedRun], Reading]] = {
    "sham_equals_base": _sham_equals_base,
    "whole_run": _whole_run,
    "leaked_items": _leaked_items,
}
_OF_ARM: Mapping[str, Callable[[FinishedRun, Key], Reading]] = {
    "target_claim": _claim("target_result"),
    "non_target_claim": _claim("non_target_result"),
    "domain_claims": _domain_claims,
    "placebo_claim": _claim("generalization", "over_placebo"),
    "specificity_claim": _claim("generalization", "specificity"),
    "target_gain": _change("target_result"),
    "non_target_change": _non_target_change,
    "worst_domain_change": _worst_domain_change,
    "retention": _retention,
    "gain_over_placebo": _change("generalization", "over_placebo"),
    "placebo_gain": _placebo_gain,
    "specificity": _change("generalization", "specificity"),
    "target_mde80": _mde80,
    "flipped_target": _of_generalization("flipped", "target"),
    "flipped_non_target": _of_generalization("flipped", "non_target"),
    "tokens_ratio": _of_generalization("tokens_ratio"),
    "invalid_rate": _of_generalization("invalid"),
    "truncated_rate": _of_generalization("truncated"),
    "probes_passed": _probes_passed,
}

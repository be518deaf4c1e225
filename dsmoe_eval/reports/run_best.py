"""The best profile found: its settings, and the share of its gain that each steering arm reaches.

The learned profile's gain is a lower bound of what profiles can reach. Where it is not above its
controls, no share is defined, and a sentence says which gain the items still allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..cards import OUTCOMES
from ..results.arms import Arm
from ..results.schema import RunResult
from ..results.shares import beaten, best_profile, over_controls
from ..results.training import Learning
from ..stats import POINTS, Unit
from . import formats
from .run_arms import arm_source, arms_of, facets_of, targets_of, variants_of
from .table import Facets, Figure, Table, Value, make_table, words

NOT_DEFINED = "not defined"
_Learned = tuple[Arm, Learning]


def share_table(result: RunResult) -> Table:
    """Return the shares of the best profile's gain, one row per steering arm, a column per target.

    It has no rows where the run has no learned profile.
    """
    best = best_profile(result)
    caption = (
        f"Gain of the arm over base, as a share of that of {best} on the same items, with "
        f"Fieller's 95 % interval. {best} is the best profile found, not the best there is: its "
        "gain is a lower bound of what profiles can reach. Not defined: it does not gain there, is "
        "not above each of its controls, or the plan lacks one of them."
    )
    every = (arms_of(result, name) for name in variants_of(result))
    rows = [arms for arms in every if any(arm.share_of_best is not None for arm in arms)]
    figures = (
        words("variant", lambda arms: arms[0].variant),
        *(_share(place, name) for place, name in enumerate(targets_of(result))),
    )
    return make_table("shares", caption, figures, rows, _facets)


def _facets(arms: Sequence[Arm]) -> Facets:
    return {"variant": (arms[0].variant,)}


def _share(place: int, name: str) -> Figure[Sequence[Arm]]:
    def value(arms: Sequence[Arm]) -> Value:
        own = arms[place].share_of_best
        if own is None or own.share is None:
            return NOT_DEFINED
        return (own.share, *(own.ci95 or ("no interval",)))

    def source(arms: Sequence[Arm]) -> str:
        own = arms[place].share_of_best
        reason = "" if own is None or not own.reason else f": {own.reason}"
        return arm_source(arms[place], "share_of_best.share") + reason

    return Figure(name, value, formats.share_with_interval, source)


def share_findings(result: RunResult) -> list[str]:
    """Return what the arms reach of the best profile, and where it gains nothing itself."""
    best = best_profile(result)
    if best is None:
        return []
    found = [
        words for name in variants_of(result) if (words := _reached(arms_of(result, name), best))
    ]
    return found + [words for arm in arms_of(result, best) if (words := _nothing(arm, result))]


def _reached(arms: Sequence[Arm], best: str) -> str:
    shares = [
        (arm.target, arm.share_of_best.share)
        for arm in arms
        if arm.share_of_best is not None and arm.share_of_best.share is not None
    ]
    if not shares:
        return ""
    span = formats.span([share for _, share in shares], formats.whole_percent)
    targets = formats.named([target for target, _ in shares], len(arms), "targets")
    return (
        f"{arms[0].variant} reaches {span} of the gain of {best}, the best profile found, on "
        f"{targets}; that gain is a lower bound of what profiles can reach."
    )


def _nothing(arm: Arm, result: RunResult) -> str:
    """Return the largest gain that the items allow where a learned profile gains nothing."""
    lost = {n: r for n, r in over_controls(arm, result).items() if r and not beaten(r, result)}
    if not lost:
        return ""
    unit = POINTS if result.outcome == "score" else Unit(OUTCOMES[result.outcome].unit)
    ends = {name: row.ci95[1] for name, row in lost.items() if row.ci95 is not None}
    if not ends:
        limit = "the items give no interval of it"
    else:
        name = min(ends, key=lambda one: ends[one])
        limit = (
            f"the 95 % interval over {_CONTROLS[name]} allows at most "
            f"{unit.number(ends[name], '+')} {unit.name}"
        )
    return (
        f"On {arm.target} even {arm.variant}, the best profile found, gains nothing over "
        f"{' and '.join(_CONTROLS[name] for name in lost)}: {limit}."
    )


_CONTROLS = {
    "over_placebo": "the one learned on shuffled answers",
    "specificity": "the one learned for another domain",
    "over_pooled": "the one learned on the answers of all targets",
}


def learned_settings(result: RunResult) -> Table:
    """Return the settings of each learned profile, and what it came to before the test."""
    caption = (
        "Learned on the tuning split. The identification split chose the number of steps, and the "
        "weight of the non-targets' divergence where several were tried: the largest gain among "
        "those of at most the divergence that the plan allows. Gain: of the mean log-probability "
        "of right answers, or likelihood of text, in nats, on that split; of a control by the "
        "answers that it learned from. Divergence (KL) from base: on the other domains' text, in "
        "nats per token. Shift: the smallest and the largest of an expert, in log-odds."
    )
    learned = [(arm, arm.settings) for arm in result.arms if isinstance(arm.settings, Learning)]

    def facets(subject: _Learned) -> Facets:
        return facets_of(subject[0], result.significance_level)

    return make_table("learned", caption, _SETTINGS, learned, facets)


def _source(place: str) -> Callable[[_Learned], str]:
    return lambda learned: arm_source(learned[0], f"settings.{place}")


def _shift(own: Learning) -> Value:
    """Return the range of the shifts; a sham's are all zero."""
    return own.log_odds if own.log_odds is not None and any(own.log_odds) else "-"


def _divergence(learned: _Learned) -> Value:
    own = learned[1]
    above = len(own.weights) > 1 and own.divergence > own.most_divergence
    return own.divergence, f", above {own.most_divergence:g}" if above else ""


_SETTINGS: tuple[Figure[_Learned], ...] = (
    words("variant", lambda learned: learned[0].variant),
    words("target", lambda learned: learned[0].target),
    Figure("weight", lambda learned: learned[1].weight, formats.significant, _source("weight")),
    words("weights tried", lambda learned: ", ".join(f"{one:g}" for one in learned[1].weights),
        _source("weights")),
    Figure("steps kept", lambda learned: (learned[1].best_step, learned[1].steps),
        formats.share_of, _source("best_step")),
    Figure("gain, nats", lambda learned: learned[1].outcome_gain, formats.thousandths,
        _source("outcome_gain")),
    Figure("divergence", _divergence, "{:.4f}{}".format, _source("divergence")),
    Figure("experts", lambda learned: learned[1].expert_count, str, _source("expert_count")),
    Figure("shift", lambda learned: _shift(learned[1]), "{:+.2f} to {:+.2f}".format,
        _source("log_odds")),
)  # fmt: skip

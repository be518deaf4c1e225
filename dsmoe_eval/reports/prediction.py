"""Rendering of a profile's predicted effect: a page with its figures."""

from __future__ import annotations

from pathlib import Path

from ..cards import OUTCOMES
from ..files import write_json
from ..studies.prediction import PredictedEffect, ProfilePrediction
from .table import Figure, Table, make_table, markdown, words, write_markdown


def render_prediction(found: ProfilePrediction, target: Path) -> Path:
    """Write `predict.json` and `predict.md`; return the page's path."""
    write_json(target / "predict.json", found.to_dict())
    page = target / "predict.md"
    write_markdown(page, prediction_page(found))
    return page


def prediction_page(found: ProfilePrediction) -> str:
    """Return the page in Markdown; everything in it follows from `predict.json`."""
    parts = [
        f"# What profile {found.profile} is expected to do to {found.model}",
        f"{found.method}, {found.intervention}, {found.experts} experts for {found.domain}; suite "
        f"{found.suite}. Foretold from the identification split, checked on the tuning split. The "
        "test split was not answered.",
        "\n".join(f"- {finding}" for finding in _findings(found)),
        markdown(_table(found)).rstrip(),
        "## How to read this",
        "\n".join(f"- {note}" for note in _NOTES),
    ]
    return "\n\n".join(parts) + "\n"


_NOTES = (
    "expected: the mean change of the identification split's items at this strength, positive for "
    "the better, with all curvature and interaction; in brackets the 95 % prediction interval of "
    "the mean of the test items. Non-targets: all tasks together, by their test items.",
    "first order: influence times shift, in the gradient form.",
    "tuning split: the change that was measured there, and in brackets the interval that was "
    "foretold for it. Where the change is outside, the prediction does not hold, and nothing is "
    "shown at this strength and beyond; first order likewise, by an interval of the same width. "
    "By chance alone it happens in 1 of 20 rows.",
    "test can show: the smallest change that the test items show with 80 % power.",
    "Experts that were chosen by their effect on these items do less on others.",
)


def _findings(found: ProfilePrediction) -> list[str]:
    lines = [_finding(found, one) for one in found.effects if one.share == 1]
    if found.without:
        lines.append(
            "Not foretold, for lack of items in the identification or tuning split: "
            f"{', '.join(found.without)}."
        )
    return lines


def _finding(found: ProfilePrediction, one: PredictedEffect) -> str:
    name = f"{found.domain if one.part == 'target' else one.part}, {OUTCOMES[one.outcome].title}"
    if one.tuning_ci95 is None:
        return (
            f"{name}: nothing is foretold at {one.strength:.4g}: a task's items of the "
            "identification split give no interval, since they are one cluster, or all differ "
            "alike."
        )
    if one.gain is None:
        limit = found.holds_to(one.part, one.outcome)
        upto = "at no strength" if limit is None else f"up to strength {limit:.4g} only"
        return f"{name}: the prediction holds {upto}, so nothing is foretold at {one.strength:.4g}."
    text = f"{name}: {_change(one)} at strength {one.strength:.4g} is expected"
    if one.mde80 is None:
        return f"{text}; the test items are too few to say which change they can show."
    enough = "enough to show it" if abs(one.gain) >= one.mde80 else "too few to show it"
    return (
        f"{text}; {one.test_items:,} test items can show {one.mde80:.4f} or more (80 % power), "
        f"{enough}."
    )


def _change(one: PredictedEffect) -> str:
    if one.tuning_ci95 is None:
        return "no interval"
    return _with_interval(one.gain, one.ci95)


def _with_interval(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None:
        return "does not hold"
    return f"{value:+.4f}" + ("" if ends is None else f" [{ends[0]:+.4f}, {ends[1]:+.4f}]")


def _table(found: ProfilePrediction) -> Table:
    return make_table("effects", "", _COLUMNS, found.effects)


_COLUMNS: tuple[Figure[PredictedEffect], ...] = (
    words("part", lambda one: one.part),
    words("outcome", lambda one: one.outcome),
    Figure("strength", lambda one: one.strength, "{:.4g}".format),
    Figure("first order", lambda one: one.first_order, "{:+.4f}".format),
    words("expected", _change),
    words("tuning split", lambda one: _with_interval(one.tuning_gain, one.tuning_ci95)),
    Figure("test can show", lambda one: one.mde80, "{:.4f}".format),
    Figure("test items", lambda one: one.test_items, "{:,}".format),
)

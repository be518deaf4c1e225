"""The tuned settings of a run's steered arms, and the figures of their probes."""

from __future__ import annotations

from collections.abc import Callable

from ..results.arms import Arm, Probe, Settings
from ..results.schema import RunResult
from ..results.terms import Pruning
from . import formats
from .run_arms import arm_source, facets_of
from .table import Facets, Figure, Table, Value, make_table, otherwise, words

Tuned = tuple[Arm, Settings]
Probed = tuple[Arm, Probe]


def settings(result: RunResult) -> Table:
    """Return the settings that tuning chose for each steered arm."""
    caption = (
        "Chosen on the tuning split by the plan's rule, before the test split was read. Share of "
        "activations: how much of all routing, over the identification text of every domain, falls "
        "on the chosen experts; a placebo whose share is far from that of the arm it controls is a "
        "weak placebo. A vector in the residual stream has layers, counted from 0, and no experts. "
        "Strength: in brackets what a bias adds to a logit, over the steered layers; "
        "sigma is the spread of a layer's logits over experts, the mean of the identification text."
    )
    tuned = [(arm, arm.settings) for arm in result.arms if isinstance(arm.settings, Settings)]

    def facets(subject: Tuned) -> Facets:
        return facets_of(subject[0], result.significance_level)

    return make_table("settings", caption, _SETTINGS, tuned, facets)


def pruned(result: RunResult) -> Table:
    """Return how many experts the pruned arms keep, one row per arm."""
    caption = (
        "Pruned models: each layer keeps as many experts, and the others are masked, which equals "
        "a checkpoint without them. The plan gives the number; nothing is tuned. Selections kept: "
        "the share of base's routing, over the identification text of every domain, that falls on "
        "the experts that are kept. A placebo keeps as many random experts of each layer."
    )
    rows = [(arm, arm.settings) for arm in result.arms if isinstance(arm.settings, Pruning)]

    def facets(subject: tuple[Arm, Pruning]) -> Facets:
        return facets_of(subject[0], result.significance_level)

    return make_table("pruned", caption, _PRUNED, rows, facets)


_PRUNED: tuple[Figure[tuple[Arm, Pruning]], ...] = (
    words("variant", lambda row: row[0].variant),
    words("target", lambda row: row[0].target),
    Figure("experts kept per layer", lambda row: row[1].kept_per_layer, str,
        lambda row: arm_source(row[0], "settings.kept_per_layer")),
    Figure("experts removed", lambda row: row[1].removed, formats.percent,
        lambda row: arm_source(row[0], "settings.removed")),
    Figure("selections kept", lambda row: row[1].exposure_kept, formats.percent,
        lambda row: arm_source(row[0], "settings.exposure_kept")),
    words("profile", lambda row: row[0].profile or "", lambda row: arm_source(row[0], "profile")),
)  # fmt: skip


def _setting(
    name: str, value: Callable[[Settings], Value], place: str, show: Callable[..., str] = str
) -> Figure[Tuned]:
    return Figure(
        name, lambda tuned: value(tuned[1]), show, lambda tuned: arm_source(tuned[0], place)
    )


def _qualified(tuned: Tuned) -> str:
    return "yes" if tuned[1].qualified_on_tuning else "no: the weakest setting was used"


def _strength(own: Settings) -> Value:
    """Return the strength and, in brackets, what a bias amounts to over the steered layers."""
    shifts = {"log-odds": own.log_odds, "sigma": None if own.unit == "sigma" else own.sigmas}
    said = [
        f"{name} {formats.span(ends, '{:.2g}'.format)}"
        for name, ends in shifts.items()
        if ends is not None
    ]
    unit = " sigma" if own.unit == "sigma" else ""
    return own.strength, f"{unit} ({', '.join(said)})" if said else unit


_SETTINGS: tuple[Figure[Tuned], ...] = (
    words("variant", lambda tuned: tuned[0].variant),
    words("target", lambda tuned: tuned[0].target),
    _setting("experts", lambda own: otherwise(own.expert_count or None, "-"),
        "settings.expert_count"),
    _setting("layers of the vector", lambda own: ", ".join(map(str, own.layers)) or "-",
        "settings.layers"),
    _setting("share of activations", lambda own: otherwise(own.activation_share, "-"),
        "settings.activation_share", formats.percent),
    _setting("strength", _strength, "settings.strength", "{:.3g}{}".format),
    words("qualified", _qualified,
        lambda tuned: arm_source(tuned[0], "settings.qualified_on_tuning")),
    words("profile", lambda tuned: tuned[0].profile or "",
        lambda tuned: arm_source(tuned[0], "profile")),
)  # fmt: skip


def probes(result: RunResult) -> Table:
    """Return the probes' figures, one row per steered arm."""
    caption = (
        "Null: strength zero must give the same bits. Effect: a profile must change what the "
        "experts receive and move the outputs. A run whose probe fails stops."
    )
    probed = [(arm, arm.probe) for arm in result.arms if arm.probe is not None]
    probed.sort(key=lambda both: (both[0].variant, both[0].target))

    def facets(subject: Probed) -> Facets:
        return facets_of(subject[0], result.significance_level)

    return make_table("probes", caption, _PROBES, probed, facets)


def _probe(
    name: str, value: Callable[[Probe], float | None], place: str, show: Callable[..., str] = str
) -> Figure[Probed]:
    """Return a column for a figure that some engines' probes lack."""
    return Figure(
        name,
        lambda probed: otherwise(value(probed[1]), "-"),
        show,
        lambda probed: arm_source(probed[0], f"probe.{place}"),
    )


_PROBES: tuple[Figure[Probed], ...] = (
    words("variant", lambda probed: probed[0].variant),
    words("target", lambda probed: probed[0].target),
    _probe("null: largest difference", lambda probe: probe.null_max_difference,
        "null_max_difference", "{:g}".format),
    _probe("selections changed", lambda probe: probe.selection_changed, "selection_changed",
        formats.percent),
    _probe("largest change of a weight", lambda probe: probe.weight_max_change, "weight_max_change",
        "{:.3f}".format),
    _probe("largest change of a logit", lambda probe: probe.logit_max_change, "logit_max_change",
        formats.hundredths),
    _probe("experts a token", lambda probe: probe.active_experts, "active_experts"),
)  # fmt: skip

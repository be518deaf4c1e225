"""Do the methods agree? The experts that the steered arms of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from ..cards import Variant
from ..results.folder import RunFolder
from ..results.schema import RunResult
from ..runs.overlaps import shared_experts
from ..runs.profiles import experts_profile
from ..steering import Profile
from ..variants import get_variant
from . import formats
from .table import Facets, Figure, Table, make_table, words


@dataclass(frozen=True, slots=True)
class Agreement:
    """The overlap (Jaccard index) of the experts that two arms steer for one target.

    Attributes:
        variants: the two arms.
        experts: number of experts of each.
        overlap: shared experts over all that either has.
        by_chance: the expected overlap of blind choices with as many experts in each layer.
    """

    target: str
    variants: tuple[str, str]
    experts: tuple[int, int]
    overlap: float
    by_chance: float


def agreements(folder: RunFolder, result: RunResult) -> list[Agreement]:
    """Compare the experts of every two tuned arms of a target, as their profiles have them."""
    tuned = [arm for arm in result.arms if arm.profile and _is_tuned(get_variant(arm.variant))]
    pairs = [(a, b) for a, b in combinations(tuned, 2) if a.target == b.target]
    profiles = {id(arm): experts_profile(folder, arm) for pair in pairs for arm in pair}
    return [
        _compare(a.target, (a.variant, b.variant), one, other)
        for a, b in pairs
        if (one := profiles[id(a)]) and (other := profiles[id(b)])
    ]


def _is_tuned(variant: Variant) -> bool:
    return variant.is_tuned and variant.quantized is None  # else the experts are the same


def _compare(target: str, variants: tuple[str, str], one: Profile, other: Profile) -> Agreement:
    overlap, by_chance = shared_experts(one.experts, other.experts, one.model.experts)
    counts = (len(one.experts), len(other.experts))
    return Agreement(target, variants, counts, overlap, by_chance)


def agreement_table(agreed: list[Agreement]) -> Table:
    """Return the table of the overlaps, one row per target and two arms."""
    caption = (
        "Experts that two arms steer for one target, with the settings that tuning chose. Overlap: "
        "shared experts over all that either has (Jaccard index); by chance: of blind choices with "
        "as many experts in each layer."
    )
    return make_table("agreement", caption, _COLUMNS, agreed, _facets)


def _facets(row: Agreement) -> Facets:
    return {"variant": row.variants, "domain": (row.target,)}


_COLUMNS: tuple[Figure[Agreement], ...] = (
    words("target", lambda row: row.target),
    words("variants", lambda row: " and ".join(row.variants)),
    Figure("experts", lambda row: row.experts, lambda a, b: f"{a} and {b}"),
    Figure("overlap", lambda row: row.overlap, formats.hundredths),
    Figure("by chance", lambda row: row.by_chance, formats.hundredths),
)

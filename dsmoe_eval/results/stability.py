"""The spread of the method: the content of `stability.json`, and what follows from it.

Two questions beside the comparisons of a run: would another sample of the identification text have
chosen other experts, and how much does the wording of the prompt move scores?
"""

from __future__ import annotations

import statistics
from typing import Annotated, Literal

from pydantic import Field

from .arms import VariantName
from .paired import Change, Hash, Name, Number, Record, Score

STABILITY_VERSION: Literal[1] = 1
"""The version of the schema of `stability.json`."""
Several = Annotated[int, Field(ge=2)]


class ExpertOverlap(Record):
    """The overlap (Jaccard index) of the experts that resamples of the documents choose.

    Attributes:
        experts: number of experts that the full text chooses.
        named: number of resamples in which the method can name as many.
        between: mean over pairs of these resamples; None if there are fewer than two.
        by_chance: the mean of blind choices of the same number per layer, over the same pairs.
        with_full: mean overlap of these resamples with the full text's choice; None if there is
            none.
    """

    experts: Number
    named: Number
    between: Score | None
    by_chance: Score | None
    with_full: Score | None


class ArmOverlap(ExpertOverlap):
    """The overlap of an arm's experts, at the number of experts that tuning chose."""

    variant: VariantName
    target: Name


class ResampledGains(Record):
    """The gains over base on a target with the experts of each resample, at the tuned settings.

    Attributes:
        base: the cell of base.
        cells: the cells of the resamples that name enough experts, in their order.
        gains: their gains.
    """

    target: Name
    base: Hash
    cells: tuple[Hash, ...]
    gains: tuple[Change, ...]

    @property
    def mean(self) -> float | None:
        """The mean gain; None without a resample."""
        return statistics.fmean(self.gains) if self.gains else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the gains; None with fewer than two."""
        return statistics.stdev(self.gains) if len(self.gains) > 1 else None

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest gain; None without a resample."""
        return (min(self.gains), max(self.gains)) if self.gains else None


class Wording(Record):
    """The scores of base and of the arm on a target under one wording of the prompt.

    Attributes:
        line: the line before each prompt; None: the task's prompt without one.
    """

    line: str | None
    base: Score
    arm: Score
    base_cell: Hash
    arm_cell: Hash

    @property
    def gain(self) -> float:
        """The gain over base under the same wording."""
        return self.arm - self.base


class TargetWordings(Record):
    """The scores on a target under each wording of the prompt; the first is the task's."""

    target: Name
    wordings: Annotated[tuple[Wording, ...], Field(min_length=1)]

    @property
    def base_range(self) -> float | None:
        """The largest less the smallest score of base; None with one wording."""
        scores = [one.base for one in self.wordings]
        return max(scores) - min(scores) if len(scores) > 1 else None


class StabilityResult(Record):
    """The whole content of `stability.json`.

    Attributes:
        resamples: the number of resamples of the documents.
        arm: the variant whose gain was measured again.
        overlaps: every tuned arm that steers experts.
        without_experts: tuned variants that choose no experts, so that there is no overlap.
        gains: the arm's gains over the resamples, target by target.
        wordings: the scores of base and the arm under each wording, target by target.
    """

    schema_version: Literal[1]
    resamples: Several
    arm: VariantName
    overlaps: tuple[ArmOverlap, ...]
    without_experts: tuple[VariantName, ...]
    gains: tuple[ResampledGains, ...]
    wordings: tuple[TargetWordings, ...]

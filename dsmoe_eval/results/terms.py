"""The terms on which an arm was compared: what it learned from, its match, its best rival."""

from __future__ import annotations

from .outcomes import Ends
from .paired import Name, Number, Record, Score


class Information(Record):
    """What an arm learned from; arms are on equal terms only where these are equal.

    Attributes:
        texts: number of documents, without answers, by which it was identified.
        answers: number of answered questions by which it was identified, tuned or trained.
        parameters: number of trained parameters.
        settings: number of settings that tuning tried.
        domain_named: whether the model is given the domain's name.
    """

    texts: Number
    answers: Number
    parameters: Number
    settings: Number
    domain_named: bool

    @property
    def words(self) -> str:
        """What the arm learned from, in words."""
        parts = {
            "the domain's name": self.domain_named,
            f"{self.texts:,} texts without answers": self.texts,
            f"{self.answers:,} answered questions": self.answers,
            f"{self.settings} setting{'s' * (self.settings != 1)} tried": self.settings,
            f"{self.parameters:,} trained parameters": self.parameters,
        }
        return ", ".join(words for words, applies in parts.items() if applies) or "nothing"


class ShareOfBest(Record):
    """The share of the gain of the best profile found on the target, by the primary outcome.

    Attributes:
        best: the variant of that profile, whose gain is a lower bound of what profiles can reach.
        share: the ratio of the two gains over base; None where it is not defined.
        ci95: Fieller's interval; None where it is unbounded.
        reason: why there is no share, or no interval; empty otherwise.
    """

    best: Name
    share: float | None
    ci95: Ends | None
    reason: str = ""


class Matching(Record):
    """How near the exposure of random experts is to that of the experts that they replace.

    Attributes:
        experts: number of random experts.
        outside: number of them whose exposure differs by more than 10 %.
        largest: the largest relative difference of a pair; None where the chosen expert has no
            exposure.
        total: the relative difference of the sums; None likewise.
    """

    experts: Number
    outside: Number
    largest: float | None
    total: float | None


class Pruning(Record):
    """The settings of a pruned model, which are the plan's and not tuned.

    Attributes:
        kept_per_layer: number of experts that each layer keeps; of a sham all.
        removed: share of all experts that are masked.
        exposure_kept: share of base's expert selections that falls on those that are kept, over
            the identification text of all domains.
    """

    kept_per_layer: Number
    removed: Score
    exposure_kept: Score


class Line(Record):
    """The settings of an arm that names a domain: the line before each prompt."""

    line: str


NOTHING = Information(texts=0, answers=0, parameters=0, settings=0, domain_named=False)
NAMED_DOMAIN = NOTHING.model_copy(update={"domain_named": True})

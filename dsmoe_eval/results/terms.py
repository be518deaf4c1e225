"""The terms on which an arm was compared: what it learned from, its match, its best rival."""

from __future__ import annotations

from .outcomes import Ends
from .paired import Name, Number, Record


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
            f"{self.settings} settings tried": self.settings,
            f"{self.parameters:,} trained parameters": self.parameters,
        }
        return ", ".join(words for words, applies in parts.items() if applies) or "nothing"


class Learning(Record):
    """The settings of a learned profile, and what it came to.

    Attributes:
        weight: of the non-targets' divergence; the chosen one of `weights`, if several were tried.
        most_divergence: the most divergence of what several weights choose from.
        expert_count: number of experts that have a shift.
        log_odds: the smallest and the largest shift; None where there is none.
        steps: number of steps, of which the state after `best_step` was kept; 0: no shift.
        outcome_gain: the change of the mean outcome of the identification split's items, by which
            that step was chosen.
        divergence: of the non-targets' text of that split from base, in nats per token.
    """

    expert_count: Number
    log_odds: tuple[float, float] | None
    steps: Number
    best_step: Number
    outcome_gain: float
    divergence: float
    learning_rate: float
    batch_size: Number
    weight: float
    weights: tuple[float, ...]
    most_divergence: float
    most_experts: Number | None
    check_every: Number


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


class Line(Record):
    """The settings of an arm that names a domain: the line before each prompt."""

    line: str


NOTHING = Information(texts=0, answers=0, parameters=0, settings=0, domain_named=False)
NAMED_DOMAIN = NOTHING.model_copy(update={"domain_named": True})

"""The settings of arms that were trained, and what training came to."""

from __future__ import annotations

from ..cards import Recipe
from .paired import Hash, Number, Record
from .terms import Matching


class SimilarityLoss(Record):
    """What a loss on the similarity of experts came to; see `variants.expert_penalties`.

    Attributes:
        weight: the factor of the loss.
        threshold: the CKA above which a pair of experts counts.
        pairs: number of pairs that were compared, over all steps.
        steps_above: number of steps with a pair above the threshold.
        first_cka: mean CKA of the pairs of the first step that compared any; None: no step did.
        last_cka: likewise of the last step.
        mean_loss: mean over the steps of what was added to the loss, with its factor.
    """

    weight: float
    threshold: float
    pairs: Number
    steps_above: Number
    first_cka: float | None
    last_cka: float | None
    mean_loss: float


class Training(Record):
    """The training settings of a fine-tuned arm, and what it came to.

    Attributes:
        rank: of adapters, which `esft` and `router` have not; `lora_alpha` likewise.
        tokens: number of tokens read, epochs included, without padding; None: not recorded.
        steps: number of steps of the optimizer; None likewise.
        expert_count: number of experts that were trained; None where no method chose any.
        weights: digest of the trained weights; None: not recorded.
        similarity: what the loss on the similarity of experts came to; None without one.
    """

    rank: Number | None
    lora_alpha: float | None
    learning_rate: float
    epochs: Number
    batch_size: Number
    recipe: Recipe = "lora"
    tokens: Number | None = None
    steps: Number | None = None
    expert_count: Number | None = None
    matching: Matching | None = None
    weights: Hash | None = None
    similarity: SimilarityLoss | None = None


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

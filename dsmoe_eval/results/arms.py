"""An arm's comparisons, and its gains and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from ..cards import Unit
from ..errors import UserError
from ..stats import regressions
from ..variants import get_variant
from .acted import Acted
from .outcomes import OVER, OutcomeResult
from .paired import (
    Domain,
    Hash,
    Levels,
    Name,
    Number,
    Paired,
    Pooled,
    Rates,
    Record,
    Score,
    pool,
    tokens_ratio,
)
from .terms import Information, Line, Matching, Pruning, ShareOfBest
from .training import Learning, Training

PerItem = Annotated[float, Field(ge=0)]


def _variant(name: str) -> str:
    try:
        return get_variant(name).name
    except UserError as error:
        raise ValueError(str(error)) from error


VariantName = Annotated[Name, AfterValidator(_variant)]


@dataclass(frozen=True, slots=True)
class NonTargetChange:
    """The change of the score over the domains that were not steered for.

    Attributes:
        pooled: the mean change of all items, so that a domain's weight is its number of items.
        macro: the mean of the domains' changes.
        worst: the lowest change of a domain, which is below 0 by chance alone; see `regressions`.
        worst_domain: its name.
    """

    pooled: float
    macro: float
    worst: float
    worst_domain: str


@dataclass(frozen=True, slots=True)
class Flipped:
    """The shares of items whose score rose or fell."""

    target: float
    non_target: float


@dataclass(frozen=True, slots=True)
class AllNonInferior:
    """The intersection-union test that every non-target domain is non-inferior."""

    p_value: float
    non_inferior: bool


@dataclass(frozen=True, slots=True)
class Generalization:
    """The gains and costs of an arm, which follow from its comparisons."""

    arm: Arm

    @property
    def target_gain(self) -> float:
        """The change of the score on the target."""
        return self.arm.target_result.delta

    @property
    def non_target_change(self) -> NonTargetChange:
        """The change of the score on the non-targets."""
        rows = dict(zip(self.arm.domain_names, self.arm.domains, strict=True))
        worst = min(rows, key=lambda name: rows[name].delta)
        return NonTargetChange(
            pooled=self.arm.non_target_result.delta,
            macro=sum(row.delta for row in rows.values()) / len(rows),
            worst=rows[worst].delta,
            worst_domain=worst,
        )

    @property
    def retention(self) -> float | None:
        """The share of base's score on the non-targets that is kept; None where base has none."""
        both = self.arm.non_target_result
        return both.score_b / both.score_a if both.score_a > 0 else None

    @property
    def flipped(self) -> Flipped:
        """The shares of items whose score changed: an equal mean can hide many changes."""
        return Flipped(self.arm.target_result.flipped, self.arm.non_target_result.flipped)

    @property
    def tokens_ratio(self) -> float | None:
        """The ratio of generated tokens to base's; see `paired.tokens_ratio`."""
        rows = (self.arm.target_result, *self.arm.domains)
        return tokens_ratio([row.answers for row in rows if row.answers is not None])

    @property
    def invalid(self) -> float:
        """The share of generated answers that are invalid: target or non-targets, the larger."""
        return max((rates.invalid for rates in self._rates), default=0.0)

    @property
    def truncated(self) -> float:
        """The share of generated answers that were cut off: target or non-targets, the larger."""
        return max((rates.truncated for rates in self._rates), default=0.0)

    @property
    def _rates(self) -> list[Rates]:
        rows = (self.arm.target_result, self.arm.non_target_result)
        return [row.answers.b for row in rows if row.answers is not None]

    @property
    def all_non_inferior(self) -> AllNonInferior:
        """The test whether every domain is non-inferior (Berger 1982, Technometrics 24:295)."""
        tests = [row.non_inferiority for row in self.arm.domains]
        return AllNonInferior(
            max(one.p_value for one in tests), all(one.non_inferior for one in tests)
        )

    @property
    def regressions(self) -> tuple[str, ...]:
        """The domains that fell; the chance of any false one is at most the significance level."""
        rows = [row.as_result() for row in self.arm.domains]
        fell = regressions(rows, self.arm.levels.significance_level)
        return tuple(n for n, lost in zip(self.arm.domain_names, fell, strict=True) if lost)

    @property
    def over_placebo(self) -> Paired | None:
        """The comparison with its placebo on the target; None where the plan has none."""
        return self.arm.over_placebo

    @property
    def specificity(self) -> Paired | None:
        """The comparison with its wrong-domain control on the target; None where there is none."""
        return self.arm.specificity

    @property
    def over_prompt(self) -> Paired | None:
        """The comparison with naming the domain in the prompt; None where there is none."""
        return self.arm.over_prompt


class Settings(Record):
    """The settings that tuning chose for a steered arm.

    Attributes:
        expert_count: number of experts; 0 for an arm that is steered by vectors.
        unit: the strength's unit.
        log_odds: for bias on logits, the smallest and the largest shift of a steered layer.
        sigmas: the same in units of the layers' sigmas, if these are known.
        layers: the decoder layers after which a vector is added; none for experts.
        activation_share: the experts' share of all activations; None where there are no experts.
    """

    expert_count: Number
    strength: Annotated[float, Field(ge=0)]
    unit: Unit = "odds"
    log_odds: tuple[float, float] | None = None
    sigmas: tuple[float, float] | None = None
    layers: tuple[int, ...] = ()
    activation_share: Score | None
    qualified_on_tuning: bool
    sizes_unavailable: tuple[int, ...] = ()
    matching: Matching | None = None


class Probe(Record):
    """The figures of the null and the effect probe."""

    null_max_difference: Annotated[float, Field(ge=0)]
    logit_max_change: Annotated[float, Field(ge=0)]
    selection_changed: Score | None = None
    weight_max_change: Annotated[float, Field(ge=0)] | None = None
    active_experts: Number | None = None
    tokens: Number | None = None
    rounding_changed: Score | None = None


class Arm(Record):
    """A variant on one target.

    Attributes:
        cells: task name -> the cell that answered it.
        target_result: the comparison with base, on the target.
        non_targets: the comparison with base, on all non-targets together.
        domains: the comparisons with base, on each non-target task, in the order of the suite.
        over_placebo: the comparison with its placebo on the target; None where the plan has none.
        specificity: the comparison with its wrong-domain control on the target; None where
            the plan has none.
        over_prompt: the comparison with naming the domain in the prompt, on the target; None where
            the plan has no such arm, and for controls.
        over_pooled: the comparison of a learned profile with the one learned on the answers of all
            targets, on the target; None for other arms, and where the plan has none.
        over_lora: the comparison of a training that adds a loss, or is on a quantized model, with
            sft-lora, on the target; None for other arms and controls, and where the plan has none.
        over_quantized: the comparison of an arm on a quantized model with that model without it, on
            the target; None of other arms.
        share_of_best: the share of the learned profile's gain; None of other than steering arms,
            and where the plan has no learned profile.
        information: what the arm learned from; a control has that of its arm.
        prompt_tokens: mean tokens of a prompt on the target, of base and of the arm.
        outcomes: the comparisons by other outcomes than the score.
        acted: the proof that it did something; None at strength zero, but on a quantized model.
    """

    variant: VariantName
    target: Name
    settings: Settings | Training | Learning | Pruning | Line | None
    profile: Hash | None
    probe: Probe | None
    cells: dict[str, Hash]
    target_result: Paired
    non_targets: Pooled
    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    over_placebo: Paired | None
    specificity: Paired | None
    over_prompt: Paired | None
    information: Information
    prompt_tokens: tuple[PerItem, PerItem]
    outcomes: tuple[OutcomeResult, ...] = ()
    over_pooled: Paired | None = None
    over_lora: Paired | None = None
    over_quantized: Paired | None = None
    share_of_best: ShareOfBest | None = None
    acted: Acted | None = None

    @model_validator(mode="after")
    def _check_domains(self) -> Self:
        tasks = {row.task for row in self.domains}
        if not (tasks < set(self.cells) and len(tasks) == len(self.domains) == len(self.cells) - 1):
            raise ValueError(
                f"the domains of arm {self.variant} on {self.target} are not those that it answered"
            )
        return self

    def judge(self, levels: Levels) -> None:
        """Set the levels of the run that this arm is part of."""
        for row in (self.target_result, self.non_targets, *self.domains):
            row.judge(levels)
        for over in self._over.values():
            if over is not None:
                over.judge(levels)
        for one in self.outcomes:
            one.judge(levels.significance_level)

    @property
    def text_cells(self) -> dict[str, tuple[Hash, Hash]]:
        """The cells of base and of the arm of each task of texts, by the task's name."""
        texts = self.outcome("bits_per_byte")
        return {} if texts is None else {task.task: task.cells for task in texts.tasks}

    def outcome(self, name: str) -> OutcomeResult | None:
        """Return the comparisons by an outcome other than the score; None if there are none."""
        return next((one for one in self.outcomes if one.outcome == name), None)

    @property
    def _over(self) -> dict[str, Paired | None]:
        """The comparisons with other arms, by their names."""
        return {name: getattr(self, name) for name in OVER}

    @property
    def levels(self) -> Levels:
        """The levels by which the run judges its comparisons."""
        return self.non_targets.levels

    @property
    def non_target_result(self) -> Paired:
        """The comparison with base, on all non-targets together."""
        return pool(self.non_targets, self.domains)

    @property
    def generalization(self) -> Generalization:
        """The gains and costs of the arm."""
        return Generalization(self)

    @property
    def comparisons(self) -> dict[str, Paired]:
        """Every comparison of the arm, by its path in the arm."""
        rows = {"target_result": self.target_result, "non_target_result": self.non_target_result}
        rows |= {f"domains[{row.task}]": row for row in self.domains}
        return rows | {name: row for name, row in self._over.items() if row is not None}

    @property
    def control_of(self) -> str | None:
        """The variant whose control the arm's variant is; None if it is no control."""
        return get_variant(self.variant).control_of

    @property
    def target_task(self) -> str:
        """The task of the target: the one answered task that is not in `domains`."""
        (task,) = set(self.cells) - {row.task for row in self.domains}
        return task

    @property
    def domain_names(self) -> list[str]:
        """The non-target domains, or their tasks where a domain has several."""
        names = [row.domain for row in self.domains]
        return names if len(set(names)) == len(names) else [row.task for row in self.domains]

    @property
    def equal_to_base(self) -> bool:
        """Whether every item of every task has base's score."""
        return not any(row.gained or row.lost for row in (self.target_result, *self.domains))

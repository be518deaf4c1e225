"""The result of a finished run: the content of `comparisons.json`, and what follows from it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..cards import Rounding
from ..variants import get_variant
from .acted import Verdict
from .arms import Arm, VariantName
from .foretold import Foretold
from .other_arms import equals_model
from .paired import Domain, Hash, Levels, Name, NonInferiority, Number, Paired, Rates, Record, Score
from .regression import RoutingAgreement

__all__ = ["Arm", "Base", "Domain", "Leakage", "NonInferiority", "Paired", "Rates", "RunResult"]
SCHEMA_VERSION: Literal[7] = 7
"""The version of the schema of `comparisons.json`."""
FAMILIES = {
    "target": "every arm but controls, on its target; every control but null ones likewise",
    "non_target": "the same two families, on the pooled non-targets",
    "domains": "the non-target domains of one arm",
    "over_placebo": "every arm with a placebo, against the mean of its draws on its target",
    "specificity": "every arm with a wrong-domain control, against it on its target",
    "over_prompt": "every arm that does not name the domain, against the one that does",
    "over_pooled": "every learned profile, against the one learned on all targets' answers",
    "over_lora": "every training that adds a loss or is on a quantized model, against sft-lora",
    "over_quantized": "every arm on a quantized model, against that model, on its target",
}
"""The families of claims, each adjusted by Holm at the plan's significance level.

Controls are a separate family, so that more of them do not make an arm's claims harder.
"""

Plain = Annotated[str, Field(min_length=1, max_length=200)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Noise(Record):
    """Base against base in other batches, on some items of a task.

    Attributes:
        items: the number of items that were scored again, one at a time.
        flipped: the number of those that got another likeliest option.
        median_difference: of log-likelihoods, absolute, in nats.
    """

    items: Annotated[int, Field(ge=1)]
    flipped: Number
    median_difference: Annotated[float, Field(ge=0)]


class EngineRouting(Record):
    """How often the engine that answers selects other experts than the one that learned.

    Attributes:
        learner: the engine that learned.
        tokens: the number of tokens of identification text that both read.
        layers: the MoE layers.
        different: the share of (token, layer) pairs whose sets of experts differ.
        different_by_layer: the same of each layer.
    """

    learner: Plain
    tokens: Annotated[int, Field(ge=1)]
    layers: tuple[int, ...]
    different: Score
    different_by_layer: tuple[Score, ...]


class QuantizedRouting(Record):
    """How far a quantized model selects the same experts as base."""

    form: Rounding
    agreement: RoutingAgreement


class Base(Record):
    """Base's score on one task, with its 95 % interval, and the task's floors.

    Attributes:
        version: the hash of items and scoring.
        chance: the expected score of random options; None where answers are generated.
        constant: the best score of one answer to all items; None where items have no gold answer,
            as in following instructions.
        noise: what the batches of texts change; None where options are not scored.
    """

    task: Name
    domain: Name
    role: Literal["target", "non-target"]
    cell: Hash
    n: Annotated[int, Field(ge=1)]
    score: Score
    ci95: tuple[Score, Score] | None
    version: Hash
    answers: Rates | None
    chance: Score | None = None
    constant: Score | None = None
    noise: Noise | None = None


class Checked(Record):
    """The number of items of a split that were checked for leakage."""

    split: Plain
    items: Number


class OverlapRow(Record):
    """An item of one split that repeats one of an earlier split; hashes, not questions."""

    rule: str
    split: Plain
    task: Plain
    item: str
    other_split: Plain
    other_task: Plain
    other_item: str
    similarity: Score


class RuleRow(Record):
    """A rule by which two items count as the same."""

    rule: str
    same: str


class Leakage(Record):
    """The items that splits share; a leaderboard has their number, but not the items."""

    pairs: Number
    allowed_by: str | None
    checked: Annotated[tuple[Checked, ...], Field(min_length=1)]
    rules: tuple[RuleRow, ...] = ()
    items: tuple[OverlapRow, ...] = ()

    @model_validator(mode="after")
    def _check_items(self) -> Self:
        if self.items and len(self.items) != self.pairs:
            raise ValueError(f"{len(self.items)} items are named of {self.pairs} pairs")
        return self


class Model(Record):
    """The model and engine that answered: the fields of a run's identity."""

    model: Plain
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]
    parameters: Number | None
    engine: Plain
    engine_settings: dict[str, int | bool | str]
    dtype: Plain
    device: Plain
    experts_implementation: Plain
    suite: Name
    limit: Number | None
    versions: dict[str, str]


class Outline(Record):
    """The settings of a run that all its arms share; `outcome` is the primary one, of the plan."""

    plan: Name
    seed: int
    significance_level: Fraction
    margin: Fraction
    outcome: Literal["score", "gold_logprob"] = "score"
    variants: Annotated[tuple[VariantName, ...], Field(min_length=1)]
    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    suite_targets: tuple[Name, ...]
    suite_tasks: tuple[Name, ...]
    run: Model

    @property
    def suite(self) -> str:
        """The name of the suite."""
        return self.run.suite

    @property
    def smoke_test(self) -> bool:
        """Whether only some of the items were used."""
        return self.run.limit is not None

    @property
    def levels(self) -> Levels:
        """The levels by which comparisons are judged."""
        return Levels(self.significance_level, self.margin)

    @property
    def family(self) -> str:
        """The number of claims about targets that are adjusted together, and the method."""
        claiming = sum(get_variant(name).family == "arms" for name in self.variants)
        return f"{claiming * len(self.targets)} target claims, Holm"

    @property
    def families(self) -> dict[str, str]:
        """The families of claims that are adjusted together."""
        return FAMILIES


class RunResult(Outline):
    """The whole content of `comparisons.json`: every arm of a run against base.

    Attributes:
        routing: None where one engine has both roles.
        quantized: one row for each quantized model.
        foretold: what was foretold of all arms; None of a plan without `foretell`.
    """

    schema_version: Literal[7]
    leakage: Leakage
    routing: EngineRouting | None = None
    quantized: tuple[QuantizedRouting, ...] = ()
    base: Annotated[tuple[Base, ...], Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    foretold: Foretold | None = None

    def equals_model(self, arm: Arm) -> bool:
        """Return whether an arm scores as its model does without it: base, or the quantized one."""
        return equals_model(arm, self.arms)

    def of_verdict(self, verdict: Verdict) -> list[str]:
        """Return the arms of a verdict on whether they acted, as `variant on target`."""
        return [
            f"{arm.variant} on {arm.target}"
            for arm in self.arms
            if arm.acted is not None and arm.acted.verdict == verdict
        ]

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        expected = [(variant, target) for variant in self.variants for target in self.targets]
        known = [(arm.variant, arm.target) for arm in self.arms]
        for key in known:
            if key not in expected or known.count(key) > 1:
                name = " on ".join(key)
                raise ValueError(f"the arm {name} is not one of the run's, or is there twice")
        for key in expected:
            if key not in known:
                raise ValueError(f"lacks the arm {' on '.join(key)}")
        for arm in self.arms:
            arm.judge(self.levels)
            row = None if self.foretold is None else self.foretold.arm(arm.variant, arm.target)
            if self.foretold and (row is None or row.profile != arm.profile):
                raise ValueError(
                    f"foretold lacks the arm {arm.variant} on {arm.target}, or its profile"
                )
        return self

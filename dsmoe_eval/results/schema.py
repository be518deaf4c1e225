"""The files of a leaderboard: what is kept of a run, one variant of one model a file.

    leaderboards/<suite>/<org__model>/<revision>/<variant>.json

A file is appended to and never changed: each of its results is one run's, with the figures of
`comparisons.json` as they were, and the hashes of the samples that they came from.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import UserError
from ..variants import get_variant

Score = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Number = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Plain = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]
Verdict = Literal["improves", "harms", "equivalent", "inconclusive"]


def _variant(name: str) -> str:
    try:
        return get_variant(name).name
    except UserError as error:
        raise ValueError(str(error)) from error


VariantName = Annotated[Name, AfterValidator(_variant)]
_ELSEWHERE: Any = {"base": {"__all__": {"cell"}}, "arms": {"__all__": {"cells", "probe"}}}


class Record(BaseModel):
    """Base of all that is filed: immutable, unknown keys and numbers that are none are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Rates(Record):
    """Of generated answers: mean tokens, shares truncated and invalid."""

    mean_tokens: Annotated[float, Field(ge=0)]
    truncated: Score
    invalid: Score
    samples: Number | None = None


class WholeAnswers(Record):
    """Items that base and the arm both answered with no answer truncated or invalid."""

    n: Number
    delta: Change | None


class Answers(Record):
    """As `runs.comparisons.compare_answers` gives it."""

    a: Rates | None
    b: Rates | None
    n: Number
    both_whole: WholeAnswers


class Claim(Record):
    """What may be said of a comparison."""

    verdict: Verdict
    words: str


class NonInferiorityFigures(Record):
    """As `stats.NonInferiority`."""

    n: Number
    delta: Change
    margin: Score
    alpha: Score
    lower_bound: Change
    p_value: Score
    holds: bool
    gained: Number
    lost: Number
    test: str
    clusters: Number


class Paired(Record):
    """As `stats.PairedResult`; `mde80` is None where no effect is large enough."""

    n: Annotated[int, Field(ge=1)]
    score_a: Score
    score_b: Score
    delta: Change
    ci95: tuple[Change, Change]
    p_value: Score
    test: str
    gained: Number
    lost: Number
    mde80: Annotated[float, Field(ge=0)] | None
    clusters: Number
    p_adjusted: Score | None = None
    claim: Claim | None = None
    answers: Answers | None = None
    non_inferiority: NonInferiorityFigures | None = None


class Domain(Paired):
    """A non-target task of an arm."""

    domain: Name
    task: Name


class NonTargetChange(Record):
    """As `stats.NonTargetChange`."""

    pooled: Change
    macro: Change
    worst: Change
    worst_domain: Name


class Flipped(Record):
    """Shares of items whose score changed either way."""

    target: Score
    non_target: Score


class AllHold(Record):
    """The intersection-union test that every non-target domain is non-inferior."""

    p_value: Score
    holds: bool


class Generalization(Record):
    """What an arm gained and cost."""

    target_gain: Change
    non_target_change: NonTargetChange
    retention: Annotated[float, Field(ge=0)] | None
    flipped: Flipped
    tokens_ratio: Annotated[float, Field(ge=0)] | None
    invalid: Score
    truncated: Score
    all_hold: AllHold
    regressions: tuple[str, ...]
    over_placebo: Paired | None
    specificity: Paired | None


class Settings(Record):
    """What tuning chose for a steered arm."""

    experts: Number
    strength: Annotated[float, Field(ge=0)]
    activation_share: Score
    qualified_on_tuning: bool
    sizes_unavailable: tuple[int, ...] = ()


class Training(Record):
    """How a fine-tuned arm was trained."""

    rank: Number
    alpha: float
    learning_rate: float
    epochs: Number
    batch_size: Number


class Probe(Record):
    """The figures of the null and the effect probe."""

    null_max_difference: Annotated[float, Field(ge=0)]
    logit_max_change: Annotated[float, Field(ge=0)]
    selection_changed: Score | None = None
    weight_max_change: Annotated[float, Field(ge=0)] | None = None
    active_experts: Number | None = None
    tokens: Number | None = None


class Arm(Record):
    """A variant on one target."""

    variant: VariantName
    target: Name
    control_of: str | None
    settings: Settings | Training | None
    profile: Hash | None
    probe: Probe | None
    cells: dict[str, Hash]
    equal_to_base: bool
    target_result: Paired
    non_target_result: Paired
    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    generalization: Generalization


class Base(Record):
    """Base's score on one task, with its 95 % interval; `version` hashes items and scoring."""

    task: Name
    domain: Name
    role: Literal["target", "non-target"]
    cell: Hash
    n: Annotated[int, Field(ge=1)]
    score: Score
    ci95: tuple[Score, Score] | None
    version: Hash
    answers: Rates | None


class Checked(Record):
    """How many items of a split were looked at for leakage."""

    split: Plain
    items: Number


class Leakage(Record):
    """What the splits shared; the items stand in the run's `comparisons.json`."""

    pairs: Number
    allowed_by: str | None
    checked: Annotated[tuple[Checked, ...], Field(min_length=1)]


class Model(Record):
    """What answered: the fields of a run's identity."""

    model: Plain
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]
    parameters: Number | None
    engine: Plain
    engine_settings: dict[str, int | bool]
    dtype: Plain
    device: Plain
    experts_implementation: Plain
    suite: Name
    limit: Number | None
    versions: dict[str, str]


class Header(Record):
    """What all variants of a run share; its hash is the run's id."""

    plan: Name
    plan_hash: Hash
    seed: int
    alpha: Score
    margin: Score
    rehearsal: bool
    family: str
    families: dict[str, str]
    variants: Annotated[tuple[VariantName, ...], Field(min_length=1)]
    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    suite_targets: tuple[Name, ...]
    suite_tasks: tuple[Name, ...]
    run: Model


class Filed(Record):
    """Who filed a result, when, and what it ran on; `why` it differs from an earlier one."""

    date: Annotated[datetime.date, Field(strict=False)]
    by: Plain
    on: Plain
    why: Plain | None = None


class Result(Record):
    """One run's figures of one variant; base's own file has no arms."""

    run_id: Hash
    filed: Filed
    header: Header
    leakage: Leakage
    base: Annotated[tuple[Base, ...], Field(min_length=1)]
    arms: tuple[Arm, ...]
    samples: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]

    def same_figures(self, other: Result) -> bool:
        """Whether all scores came out alike; another machine may round a probe otherwise."""
        out = _ELSEWHERE | {"filed": True, "samples": True}
        return bool(self.model_dump(exclude=out) == other.model_dump(exclude=out))

    def same(self, other: Result) -> bool:
        """Whether they came from the very same samples, too."""
        return self.same_figures(other) and self.samples == other.samples


class Entry(Record):
    """A file: every result of one variant of one model in one suite."""

    schema_version: Literal[1]
    suite: Name
    model: Plain
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    variant: VariantName
    results: Annotated[tuple[Result, ...], Field(min_length=1)]

    @property
    def place(self) -> Path:
        """Where it belongs, from the leaderboards' folder."""
        return Path(self.suite) / self.model / self.revision / f"{self.variant}.json"


class OverlapRow(Record):
    """An item of one split that repeats one of an earlier split; hashes, no question."""

    rule: str
    split: Plain
    task: Plain
    item: str
    other_split: Plain
    other_task: Plain
    other_item: str
    similarity: Score


class RuleRow(Record):
    """When two items are the same."""

    rule: str
    same: str


class FoundLeakage(Leakage):
    """What the splits shared, item by item."""

    rules: tuple[RuleRow, ...]
    items: tuple[OverlapRow, ...]


class RunResult(Record):
    """The whole content of `comparisons.json`: every arm of a run against base."""

    schema_version: Literal[4]
    plan: Name
    suite: Name
    suite_targets: tuple[Name, ...]
    suite_tasks: tuple[Name, ...]
    variants: Annotated[tuple[VariantName, ...], Field(min_length=1)]
    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    rehearsal: bool
    alpha: Score
    margin: Score
    seed: int
    family: str
    families: dict[str, str]
    run: Model
    leakage: FoundLeakage
    base: Annotated[tuple[Base, ...], Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]

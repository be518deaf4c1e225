"""The proof that each arm of a run acted, and what the trained ones cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..results.acted import EVIDENCE, Acted
from ..results.arms import Arm
from ..results.folder import RunFolder
from ..results.schema import RunResult
from ..results.training import Training
from ..runs.training import read_training
from ..variants import get_variant
from ..variants.recipes import TRAINING, TrainingRecord
from . import formats
from .run_arms import arm_source, facets_of
from .table import Facets, Figure, Table, Value, make_table, otherwise, words

_MIB = 2**20
Proved = tuple[Arm, Acted]


def failed_warning(result: RunResult) -> str:
    """Return the warning at the head of a report with arms that did nothing; empty without any."""
    failed = result.of_verdict("failed")
    if not failed:
        return ""
    return (
        f"{len(failed)} of {len(result.arms)} arms did not act: {', '.join(failed)}. They left the "
        "model unchanged although they should have changed it, so their figures show nothing."
    )


def idle_sentences(result: RunResult) -> list[str]:
    """Return a sentence on arms that changed nothing and need not have done."""
    unused = (
        "the experts that are switched off, trained or raised there are not used by these texts."
    )
    unmoved = "learning kept the shifts of its start, which are zero."
    sentences = []
    for reason, is_learned in ((unused, False), (unmoved, True)):
        idle = [
            f"{arm.variant} on {arm.target}"
            for arm in result.arms
            if arm.acted is not None
            and arm.acted.verdict == "idle"
            and (get_variant(arm.variant).kind == "learned") == is_learned
        ]
        sentences += [f"Nothing changes in {', '.join(idle)}: {reason}"] if idle else []
    return sentences


def proofs(result: RunResult) -> Table:
    """Return one row per arm: the figure that shows what was done, and whether outputs changed."""
    caption = (
        "What was done to the model: "
        + "; ".join(f"{kind}: {meaning}" for kind, meaning in EVIDENCE.items())
        + ". Outputs: the largest change of a log-likelihood on the target's items, in nats; of "
        "generated answers the share that differ. An arm that should have changed the model and "
        "did not is marked as failed, and the command `run` ends with exit code 5."
    )
    proved = [(arm, arm.acted) for arm in result.arms if arm.acted is not None]

    def facets(subject: Proved) -> Facets:
        return facets_of(subject[0], result.significance_level)

    rounded = any(acted.quantized is not None for _, acted in proved)
    figures = (*_PROOFS[:-1], *((_QUANTIZED,) if rounded else ()), _PROOFS[-1])
    caption += _BESIDE if rounded else ""
    return make_table("proofs", caption, figures, proved, facets)


def _proof(
    name: str, value: Callable[[Acted], Value], place: str, show: Callable[..., str] = str
) -> Figure[Proved]:
    return Figure(name, lambda one: value(one[1]), show, lambda one: arm_source(one[0], place))


_BESIDE = " Outputs of an arm on a quantized model are compared with those of that model."
_QUANTIZED: Figure[Proved] = Figure(
    "experts' bytes quantized",
    lambda one: otherwise(one[1].quantized, "-"),
    formats.percent,
    lambda one: arm_source(one[0], "acted.quantized"),
)
"""Of a steered arm on a quantized model, beside what steering did."""
_PROOFS: tuple[Figure[Proved], ...] = (
    words("variant", lambda one: one[0].variant),
    words("target", lambda one: one[0].target),
    words("figure", lambda one: one[1].kind, lambda one: arm_source(one[0], "acted.kind")),
    _proof("value", lambda own: own.figure, "acted.figure", "{:.3g}".format),
    _proof("outputs changed by", lambda own: own.output_change, "acted.output_change",
        "{:.3g}".format),
    words("acted", lambda one: "FAILED" if one[1].verdict == "failed" else one[1].verdict,
        lambda one: arm_source(one[0], "acted.verdict")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cost:
    """A fine-tuned arm, and what its training took; None where the file is not there."""

    arm: Arm
    settings: Training
    record: TrainingRecord | None
    place: str


def training_costs(folder: RunFolder, result: RunResult) -> Table:
    """Return one row per fine-tuned arm: what training took, beside gain and loss elsewhere."""
    caption = (
        "What the fine-tuned arms cost, beside what they gain on the target and lose elsewhere. "
        "Tokens: read in training, epochs included. Memory: the most at a time; of a GPU what "
        "torch allocated, else that of the whole process. Landed: the share of the weights (or "
        "their rows) to be trained that training changed."
    )
    subjects = [_cost(folder, arm, arm.settings) for arm in result.arms
                if isinstance(arm.settings, Training)]  # fmt: skip

    def facets(subject: _Cost) -> Facets:
        return facets_of(subject.arm, result.significance_level)

    return make_table("training", caption, _COSTS, subjects, facets)


def _cost(folder: RunFolder, arm: Arm, settings: Training) -> _Cost:
    path = folder.adapter(arm.variant, arm.target) / TRAINING
    record = read_training(folder, arm.variant, arm.target) if folder.has(path) else None
    return _Cost(arm, settings, record, path.relative_to(folder.root).as_posix())


def _taken(
    name: str, value: Callable[[TrainingRecord], float | None], place: str, show: Callable[..., str]
) -> Figure[_Cost]:
    """Return a column of the file that training left, if it is there."""
    return Figure(
        name,
        lambda one: otherwise(None if one.record is None else value(one.record), "-"),
        show,
        lambda one: f"{one.place}: {place}",
    )


def _mib(record: TrainingRecord) -> float | None:
    return None if record.peak_bytes is None else record.peak_bytes / _MIB


_COSTS: tuple[Figure[_Cost], ...] = (
    words("variant", lambda one: one.arm.variant),
    words("target", lambda one: one.arm.target),
    words("recipe", lambda one: one.settings.recipe,
        lambda one: arm_source(one.arm, "settings.recipe")),
    Figure("epochs", lambda one: one.settings.epochs, str,
        lambda one: arm_source(one.arm, "settings.epochs")),
    Figure("learning rate", lambda one: one.settings.learning_rate, "{:g}".format,
        lambda one: arm_source(one.arm, "settings.learning_rate")),
    Figure("experts", lambda one: otherwise(one.settings.expert_count, "-"), str,
        lambda one: arm_source(one.arm, "settings.expert_count")),
    Figure("parameters", lambda one: one.arm.information.parameters, "{:,}".format,
        lambda one: arm_source(one.arm, "information.parameters")),
    Figure("tokens", lambda one: otherwise(one.settings.tokens, "-"), "{:,}".format,
        lambda one: arm_source(one.arm, "settings.tokens")),
    _taken("seconds", lambda own: own.seconds, "seconds", "{:.1f}".format),
    _taken("memory, MiB", _mib, "peak_bytes", "{:,.0f}".format),
    _taken("landed", lambda own: own.landed, "changed / trained", formats.percent),
    Figure("change of target", lambda one: one.arm.target_result.delta, formats.pp,
        lambda one: arm_source(one.arm, "target_result.delta")),
    Figure("of non-targets", lambda one: one.arm.non_target_result.delta, formats.pp,
        lambda one: arm_source(one.arm, "non_target_result.delta")),
)  # fmt: skip

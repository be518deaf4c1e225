"""What losses on the similarity of experts came to in training, and what they gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..results.arms import Arm
from ..results.schema import RunResult
from ..results.training import SimilarityLoss, Training
from ..variants import get_variant
from . import formats
from .run_arms import arm_source, facets_of, sign_of_change
from .table import Facets, Figure, Table, Value, make_table, otherwise, words


@dataclass(frozen=True, slots=True)
class _Penalised:
    """An arm whose training added a loss."""

    arm: Arm
    settings: Training
    similarity: SimilarityLoss

    @property
    def steps(self) -> int:
        return self.settings.steps or 0


def _penalised(result: RunResult) -> list[_Penalised]:
    return [
        _Penalised(arm, arm.settings, arm.settings.similarity)
        for arm in result.arms
        if isinstance(arm.settings, Training) and arm.settings.similarity is not None
    ]


def plain_of(arm: Arm, result: RunResult) -> Arm | None:
    """Return `sft-lora` of an arm's budget and target; None where the run has none."""
    epochs = get_variant(arm.variant).epochs
    for other in result.arms:
        own = get_variant(other.variant)
        same = other.target == arm.target and own.epochs == epochs
        if same and (own.kind, own.trained_by, own.quantized) == ("sft", "lora", None):
            return other
    return None


def _same_weights(arm: Arm, other: Arm) -> bool:
    """Return whether two arms were trained to the same bits."""
    weights = [one.settings.weights if isinstance(one.settings, Training) else None
               for one in (arm, other)]  # fmt: skip
    return weights[0] is not None and weights[0] == weights[1]


def similarity_losses(result: RunResult) -> Table:
    """Return one row per arm whose training added a loss on the similarity of experts."""
    level = result.significance_level
    caption = (
        "Training added a loss on the similarity of experts (CKA) to that of sft-lora. Above: the "
        "steps with a pair above the threshold. CKA: mean of the compared pairs, in the first and "
        "the last step that compared any; that of sft-simsmoe is the published estimate, which is "
        "high for unrelated outputs too. Added: mean over the steps, with the loss's weight. Over "
        "sft-lora: target score less that of the same training without the loss. ▲ ▼: "
        f"Holm-adjusted p < {level}."
    )

    def facets(subject: _Penalised) -> Facets:
        return facets_of(subject.arm, level)

    def over(subject: _Penalised) -> Value:
        row = subject.arm.over_lora
        if row is not None:
            return row.delta, sign_of_change(row.p_adjusted, row.delta, level)
        plain = plain_of(subject.arm, result)
        return "equal weights" if plain and _same_weights(subject.arm, plain) else "-"

    gain = Figure(
        "over sft-lora", over, formats.pp, lambda one: arm_source(one.arm, "over_lora.delta")
    )
    return make_table("similarity", caption, (*_FIGURES, gain), _penalised(result), facets)


def _of(
    name: str, value: Callable[[_Penalised], Value], place: str, show: Callable[..., str]
) -> Figure[_Penalised]:
    return Figure(
        name, value, show, lambda one: arm_source(one.arm, f"settings.similarity.{place}")
    )


_FIGURES: tuple[Figure[_Penalised], ...] = (
    words("variant", lambda one: one.arm.variant),
    words("target", lambda one: one.arm.target),
    _of("weight", lambda one: one.similarity.weight, "weight", "{:g}".format),
    _of("threshold", lambda one: one.similarity.threshold, "threshold", "{:g}".format),
    _of("pairs compared", lambda one: one.similarity.pairs, "pairs", str),
    _of("above", lambda one: (one.similarity.steps_above, one.steps), "steps_above",
        formats.share_of),
    _of("CKA, first", lambda one: otherwise(one.similarity.first_cka, "-"), "first_cka",
        "{:.3f}".format),
    _of("last", lambda one: otherwise(one.similarity.last_cka, "-"), "last_cka", "{:.3f}".format),
    _of("added", lambda one: one.similarity.mean_loss, "mean_loss", "{:.2g}".format),
    Figure("non-targets", lambda one: one.arm.non_target_result.delta, formats.pp,
        lambda one: arm_source(one.arm, "non_target_result.delta")),
)  # fmt: skip


def similarity_sentences(result: RunResult) -> list[str]:
    """Return what is to be known of losses that were zero, and of controls of weight zero."""
    found = []
    for one in _penalised(result):
        where = f"{one.arm.variant} on {one.arm.target}"
        plain, control = plain_of(one.arm, result), one.arm.control_of is not None
        if get_variant(one.arm.variant).expert_source == "zero_weight" and plain is not None:
            equal = "has" if _same_weights(one.arm, plain) else "has not"
            found.append(
                f"{where}, whose loss has no weight, {equal} the weights of {plain.variant} bit by "
                "bit" + (", as it must." if equal == "has" else ", though it should have.")
            )
        elif one.similarity.mean_loss == 0 and not control:
            found.append(
                f"The similarity loss was zero in all {one.steps} steps of {where}: it trained as "
                "sft-lora."
            )
    return found

"""What shows that an arm did something to the model, as its cells store it."""

from __future__ import annotations

from ..engines.base import Figures
from ..results.acted import Evidence
from .arms import PreparedArm
from .job import Job
from .training import read_training


def evidence_of(
    job: Job, arm: PreparedArm | None, figures: Figures | None, share: float | None = None
) -> Evidence | None:
    """Return the figure by which an arm is judged; None of base, and at strength zero.

    At strength zero on a quantized model it is that of the quantization.

    Args:
        job: the run.
        arm: the arm; None is base.
        figures: the figures of the probes, of an arm with a profile.
        share: the share of the experts' bytes that are quantized, of an arm on a quantized model.
    """
    evidence = _evidence(job, arm, figures)
    if share is None:
        return evidence
    if evidence is None:
        return {"kind": "bytes", "figure": share}
    return {**evidence, "quantized": share}


def _evidence(job: Job, arm: PreparedArm | None, figures: Figures | None) -> Evidence | None:
    """Return the figure of what was done beside quantization."""
    if arm is None or arm.planned.variant.zero_strength:
        return None
    variant, target = arm.planned.variant, arm.planned.target
    if variant.kind == "sft":
        landed = read_training(job.folder, variant.name, target).landed
        return {"kind": "weights", "figure": landed}
    if arm.planned.preamble is not None:
        return {"kind": "prompt", "figure": float(len(job.lm.tok_encode(arm.planned.preamble)))}
    return None if figures is None else _probed_evidence(arm, figures.to_dict())


def _probed_evidence(arm: PreparedArm, figures: dict[str, float | int | None]) -> Evidence:
    moved = float((figures["logit_max_change"] or 0) - (figures["null_max_difference"] or 0))
    moved = max(0.0, moved)
    switched_off = arm.planned.variant.intervention in ("mask", "prune")
    if switched_off and figures.get("selection_changed") is not None:
        # All of them, or the probe that gave these figures would have failed.
        return {"kind": "experts", "figure": 1.0, "moved": moved}
    return {"kind": "logits", "figure": moved}

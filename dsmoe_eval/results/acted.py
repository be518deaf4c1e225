"""The proof that each arm acted: a fault that leaves the model unchanged is no effect of zero."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

import numpy as np
import pandas as pd
from pydantic import Field

from ..cards import Variant
from .paired import Record

EvidenceKind = Literal["logits", "weights", "experts", "bytes", "prompt"]
Verdict = Literal["acted", "idle", "failed"]
EVIDENCE: dict[EvidenceKind, str] = {
    "logits": "largest change of a logit beyond that at strength zero",
    "weights": "share of the weights or rows to be trained that training changed",
    "experts": "share of the switched-off experts that no probed token uses",
    "bytes": "share of the experts' bytes that are quantized",
    "prompt": "tokens before each prompt",
}
"""What the figure of each kind is."""
OUTPUTS = ("item", "loglikelihoods", "texts")
"""The columns of a cell's rows that `output_change` reads."""


class Evidence(TypedDict):
    """The figure in `cell.json` that shows what was done to the model; see `Acted`.

    `moved` is the largest change of a logit, where it was probed; `quantized` the share of the
    experts' bytes that are quantized, of an arm on a quantized model.
    """

    kind: EvidenceKind
    figure: float
    moved: NotRequired[float]
    quantized: NotRequired[float]


class Acted(Record):
    """Whether an arm did what it says, and the figure that shows it.

    Attributes:
        kind: the meaning of the figure; see `EVIDENCE`.
        figure: 0 where nothing was done.
        output_change: the largest change of a log-likelihood on the target's items, in nats; of
            generated answers the share that differ: from base's, or the quantized model's.
        quantized: the share of the experts' bytes that are quantized; None of an arm on another
            model, and where it is the figure.
        verdict: `idle`: nothing changed and nothing had to: random experts, or switched-off ones
            that these texts do not use. `failed`: nothing changed although it should.
    """

    kind: EvidenceKind
    figure: Annotated[float, Field(ge=0)]
    output_change: Annotated[float, Field(ge=0)]
    verdict: Verdict
    quantized: Annotated[float, Field(ge=0, le=1)] | None = None


def acted_of(variant: Variant, evidence: Evidence, output_change: float) -> Acted:
    """Judge whether an arm acted.

    Args:
        variant: the arm's variant; at strength zero only on a quantized model.
        evidence: the figure of the arm's cells.
        output_change: see `Acted`.
    """
    kind, figure = evidence["kind"], evidence["figure"]
    verdict: Verdict = "failed" if variant.must_act else "idle"
    if kind == "experts":
        verdict = "acted" if evidence.get("moved", figure) > 0 else "idle"
    elif figure > 0 and (kind == "logits" or output_change > 0 or variant.zero_strength):
        verdict = "acted"
    share = evidence.get("quantized")
    if 0 in (share, figure if kind == "bytes" else None):  # whatever steering did
        verdict = "failed"
    return Acted(
        kind=kind, figure=figure, output_change=output_change, verdict=verdict, quantized=share
    )


def output_change(base: pd.DataFrame, arm: pd.DataFrame) -> float:
    """Compute how far the answers of two cells to the same items differ; see `Acted`.

    Args:
        base: rows with `item`, `loglikelihoods` and `texts`.
        arm: likewise.
    """
    both = base.merge(arm, on="item", suffixes=("_a", "_b"))
    pairs = zip(both["loglikelihoods_a"], both["loglikelihoods_b"], strict=True)
    changes = [np.abs(np.subtract(a, b)).max() for a, b in pairs if len(a) == len(b) > 0]
    if changes:
        return float(max(changes))
    texts = zip(both["texts_a"], both["texts_b"], strict=True)
    differ = [one != other for a, b in texts for one, other in zip(a, b, strict=False)]
    return float(np.mean(differ)) if differ else 0.0

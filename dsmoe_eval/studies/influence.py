"""The influence of a model's experts on the items of a suite, or on text, domain by domain.

Or of a dense model's neurons: see `steering.slopes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..cards import Identification
from ..engines.base import Engine
from ..errors import UserError
from ..experts import (
    Effect,
    Form,
    InfluenceItems,
    OutcomeItem,
    column_width,
    count_routing,
    in_columns,
)
from ..progress import progress_bar
from ..runs.identification import read_documents
from ..runs.influence import gaining, influence_of
from ..runs.outcome_items import outcome_items, own_answers
from ..steering import EXPERTS, Channel, Sites
from ..tasks.identification import IdentificationText
from .influence_results import InfluenceEntry, InfluenceResult, InfluenceRow

FormName = Literal["exact", "gradient"]
StepUnit = Literal["sigma", "odds"]
CLEAR = 4.0
"""The size of t that is counted: of 10,000 experts without influence, fewer than one has it."""
MOST_LISTED = 200
"""The number of a domain's experts that are listed, the largest first."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What is raised, and by how much.

    Attributes:
        form: `exact`, in which the router selects again, or `gradient`.
        channel: logits, weights or correction biases.
        step: the size of the step, for the exact form.
        unit: its unit: the spread of the layer's logits over experts, or log-odds (for weights
            their logarithm, for correction biases the score).
    """

    form: FormName = "exact"
    channel: Channel = "logit"
    step: float = 0.5
    unit: StepUnit = "sigma"

    def check(self, sites: Sites = EXPERTS) -> None:
        """Check the step, and that form, channel and unit fit together, and to the units.

        Raises:
            UserError: it is not, or they do not.
        """
        if not 0 < self.step < math.inf:
            raise UserError(f"the step {self.step} is no finite number above 0, such as 0.5")
        if sites != EXPERTS and self not in (Shift("exact"), Shift("gradient")):
            raise UserError(
                "neurons have neither logits nor correction biases, and no selection that a step "
                "could change; leave channel, step and unit out"
            )
        if self.channel == "score" and self.form == "gradient":
            raise UserError(
                "a correction bias moves the selection only, so its gradient is zero; take the "
                "form exact"
            )
        if self.channel != "logit" and (self.form, self.unit) == ("exact", "sigma"):
            raise UserError(
                f"sigma is a unit of logits, not of the channel {self.channel}; take the unit odds"
            )


def influence_study(
    engine: Engine,
    text: IdentificationText,
    shift: Shift = Shift(),
    *,
    chat: bool = False,
    generated: bool = False,
    root: Path | None = None,
    console: Console | None = None,
) -> InfluenceResult:
    """Compute the influence of every expert on each domain's items: its target's if it has one.

    Args:
        engine: the model's engine, which must compute gradients; its sites are the units.
        text: the items; see `runs.outcome_items.outcome_items`.
        shift: what is raised; of neurons the default only, in either form, which are one.
        chat: whether questions are put into the tokenizer's chat template.
        generated: whether the outcome of a task with generated answers is that of the model's
            right answers, not of the gold ones.
        root: the folder in which passes are stored.
        console: the console that shows the cost and the progress; by default stderr.

    Returns:
        The content of `influence.json`.

    Raises:
        UserError: the shift is none, the engine computes no gradients, or an item has no outcome.
        SteeringError: the model's routers or experts do not allow it.
    """
    sites = engine.identity.sites
    shift.check(sites)
    shift = shift if sites == EXPERTS else Shift("gradient")
    shown, root = console or Console(stderr=True), root or Path("out") / "observations"
    answers = own_answers(engine, root) if generated else None
    items = outcome_items(engine, gaining(text.tasks), chat, answers)
    shown.print(cost(items, shift), highlight=False, soft_wrap=True)
    try:
        form = Form(shift.channel, _steps(engine, text, shift, chat, root))
        title = f"influence of {sites.noun}"
        with progress_bar(shown, title, _texts(items), "texts") as advance:
            seen = influence_of(engine, items, form, root, advance)
    except ValueError as error:
        raise UserError(str(error)) from error
    return _result(engine, text.source, shift, form, items, seen)


def _result(
    engine: Engine,
    source: str,
    shift: Shift,
    form: Form,
    items: Sequence[OutcomeItem],
    seen: InfluenceItems,
) -> InfluenceResult:
    identity, sites = engine.identity, engine.identity.sites
    result: InfluenceResult = {
        "model": {"name": identity.name, "fingerprint": identity.fingerprint},
        "dtype": engine.dtype,
        "device": engine.device,
        "source": source,
        "form": shift.form,
        "channel": shift.channel if sites == EXPERTS else "factor",
        "step": shift.step if shift.form == "exact" else None,
        "unit": shift.unit if sites == EXPERTS else "factor",
        "steps": None if form.steps is None else list(form.steps),
        "tokens": _tokens(items),
        "texts": _texts(items),
        "experts": identity.experts,
        "layers": list(identity.layers),
        "domains": [
            _row(domain, seen.of(domain), identity.layers, sites) for domain in seen.domains
        ],
    }
    if sites != EXPERTS:
        result |= {"units": sites.noun, "column": column_width(identity.experts)}
    return result


def cost(items: Sequence[OutcomeItem], shift: Shift) -> str:
    """Return in words what a study will compute."""
    passes = "one forward and backward pass"
    if shift.form == "exact":
        passes += ", with the outputs of the experts within reach of the step"
        if shift.unit == "sigma":
            passes += "; before it a forward pass over the questions, for the unit"
    return (
        f"influence: {len(items):,} items, {_texts(items):,} texts, {_tokens(items):,} tokens: "
        f"{passes}; what is stored is not computed again"
    )


def _texts(items: Sequence[OutcomeItem]) -> int:
    return sum(len(item.texts) for item in items)


def _tokens(items: Sequence[OutcomeItem]) -> int:
    return sum(len(text.tokens) for item in items for text in item.texts)


def _steps(
    engine: Engine, text: IdentificationText, shift: Shift, chat: bool, root: Path
) -> tuple[float, ...] | None:
    layers = engine.identity.layers
    if shift.form == "gradient":
        return None
    if shift.unit == "odds":
        return (shift.step,) * len(layers)
    documents = read_documents(engine, text.tasks, Identification(chat_template=chat), root)
    seen = engine.observe(documents, root, reader=None, contributions=False, advance=lambda _: None)
    sigmas = count_routing(seen).sigmas()
    return tuple(shift.step * sigmas[layer] for layer in layers)


def _row(domain: str, effect: Effect, layers: Sequence[int], sites: Sites) -> InfluenceRow:
    mean = effect.mean
    error = effect.error if effect.clusters > 1 else None
    t = None if error is None else np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    whole = sites == EXPERTS
    return {
        "domain": domain,
        "items": effect.items,
        "clusters": effect.clusters,
        "outcome": effect.outcome,
        "influence": _listed(in_columns(mean, sites)),
        "error": _listed(error) if error is not None and whole else None,
        "curvature": _listed(effect.curvature) if whole else None,
        "above": None if t is None else int((t > CLEAR).sum()),
        "below": None if t is None else int((t < -CLEAR).sum()),
        "largest": _largest(mean, error, layers),
    }


def _largest(
    mean: NDArray[np.float64], error: NDArray[np.float64] | None, layers: Sequence[int]
) -> list[InfluenceEntry]:
    centred = mean - mean.mean(-1, keepdims=True)
    order = np.argsort(-centred, axis=None, kind="stable")[:MOST_LISTED]
    return [
        {
            "layer": layers[at],
            "expert": int(expert),
            "influence": float(mean[at, expert]),
            "centred": float(centred[at, expert]),
            "error": None if error is None else float(error[at, expert]),
        }
        for at, expert in zip(*np.unravel_index(order, mean.shape), strict=True)
    ]


def _listed(values: NDArray[np.float64]) -> list[list[float]]:
    return [[float(value) for value in row] for row in values]

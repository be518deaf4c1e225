"""The influence of a model's experts on the items of a suite, or on text, domain by domain."""

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
from ..experts import Effect, Form, OutcomeItem, count_routing
from ..progress import progress_bar
from ..runs.identification import read_documents
from ..runs.influence import gaining, influence_of
from ..runs.outcome_items import outcome_items, own_answers
from ..steering import Channel
from ..tasks.identification import IdentificationText
from .results import InfluenceResult, InfluenceRow

FormName = Literal["exact", "gradient"]
StepUnit = Literal["sigma", "odds"]


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

    def check(self) -> None:
        """Check that the step is a number, and that form, channel and unit fit together.

        Raises:
            UserError: it is not, or they do not.
        """
        if not 0 < self.step < math.inf:
            raise UserError(f"the step {self.step} is no finite number above 0, such as 0.5")
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
        engine: the model's engine, which must compute gradients.
        text: the items; see `runs.outcome_items.outcome_items`.
        shift: what is raised.
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
    shift.check()
    shown, root = console or Console(stderr=True), root or Path("out") / "observations"
    answers = own_answers(engine, root) if generated else None
    items = outcome_items(engine, gaining(text.tasks), chat, answers)
    shown.print(cost(items, shift), highlight=False, soft_wrap=True)
    try:
        form = Form(shift.channel, _steps(engine, text, shift, chat, root))
        texts = sum(len(item.texts) for item in items)
        with progress_bar(shown, "influence of experts", texts, "texts") as advance:
            seen = influence_of(engine, items, form, root, advance)
    except ValueError as error:
        raise UserError(str(error)) from error
    identity = engine.identity
    return {
        "model": {"name": identity.name, "fingerprint": identity.fingerprint},
        "dtype": engine.dtype,
        "device": engine.device,
        "source": text.source,
        "form": shift.form,
        "channel": shift.channel,
        "step": shift.step if shift.form == "exact" else None,
        "unit": shift.unit,
        "steps": None if form.steps is None else list(form.steps),
        "tokens": _tokens(items),
        "texts": texts,
        "experts": identity.experts,
        "layers": list(identity.layers),
        "domains": [_row(domain, seen.of(domain)) for domain in seen.domains],
    }


def cost(items: Sequence[OutcomeItem], shift: Shift) -> str:
    """Return in words what a study will compute."""
    passes = "one forward and backward pass"
    if shift.form == "exact":
        passes += ", with the outputs of the experts within reach of the step"
        if shift.unit == "sigma":
            passes += "; before it a forward pass over the questions, for the unit"
    texts = sum(len(item.texts) for item in items)
    return (
        f"influence: {len(items):,} items, {texts:,} texts, {_tokens(items):,} tokens: {passes}; "
        "what is stored is not computed again"
    )


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


def _row(domain: str, effect: Effect) -> InfluenceRow:
    known = effect.clusters > 1
    return {
        "domain": domain,
        "items": effect.items,
        "clusters": effect.clusters,
        "outcome": effect.outcome,
        "influence": _listed(effect.mean),
        "error": _listed(effect.error) if known else None,
        "curvature": _listed(effect.curvature),
    }


def _listed(values: NDArray[np.float64]) -> list[list[float]]:
    return [[float(value) for value in row] for row in values]

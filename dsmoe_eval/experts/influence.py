"""Influence: what raising each expert would do to the log-likelihood of texts, to first order.

Notation: token t, logits z, selected experts S with weights w_e and outputs f_e, the experts'
output y = sum of w_e f_e, and g_t = d(log-likelihood)/dy_t, from one backward pass. The weights of
the model are frozen; shifts of the routers' logits, [texts, layers, experts], need gradients.

- Gradient form: d(log-likelihood)/d(shift) while the selection does not change. For routers that
  renormalise it is the sum over tokens with e in S of w_e <g_t, f_e - y_t>.
- Routing-exact form for a shift s: the sum over tokens of <g_t, y_t(z + s 1_e) - y_t(z)> / s, in
  which the router selects again. See `rerouting`.

In the channel `score` (the correction bias) the gradient is zero: it moves the selection only.

Of neurons the shift is s in a_j (1 + s), and nothing is selected: both forms are one, see
`steering.slopes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..steering import (
    EXPERTS,
    Channel,
    Router,
    Sites,
    SteeringError,
    find_routers,
    find_sites,
    neuron_slopes,
    neurons_of,
    shifted_routers,
)
from .backward import BackwardPass, loss_gradient
from .batching import entrance, pad
from .counts import RoutingCounts
from .rerouting import reroutings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNIT = 0.5
"""The default shift of the routing-exact form, in units of the layer's logit spread.

Of neurons, which have no logits, it is s itself: a factor of 1.5."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text of which some tokens' log-probabilities are summed.

    Attributes:
        tokens: all tokens.
        start: the first token whose log-probability counts, at least 1; all after it count.
    """

    tokens: tuple[int, ...]
    start: int

    @property
    def scored(self) -> int:
        """The number of tokens that count."""
        return len(self.tokens) - self.start


@dataclass(frozen=True, slots=True)
class Form:
    """What is shifted, and by how much.

    Attributes:
        channel: what is shifted.
        steps: the shift of each layer for the routing-exact form; None for the gradient form. In
            log-odds; in the channel `score` in units of the score.
    """

    channel: Channel = "logit"
    steps: tuple[float, ...] | None = None


def layer_steps(counts: RoutingCounts, sites: Sites = EXPERTS) -> tuple[float, ...]:
    """Return the shift of each layer by which influence is judged; see `UNIT`.

    Raises:
        ValueError: the counts of experts lack the spread of logits.
    """
    if sites != EXPERTS:
        return (UNIT,) * len(counts.layers)
    sigmas = counts.sigmas()
    return tuple(UNIT * sigmas[layer] for layer in counts.layers)


def stepped_form(steps: Sequence[float], sites: Sites = EXPERTS) -> Form:
    """Return the routing-exact form of these steps; of neurons the gradient, which is the same."""
    return Form(steps=tuple(steps)) if sites == EXPERTS else Form()


class Influence(BackwardPass):
    """The influence of all experts on texts' log-likelihoods; one object serves many batches.

    Args:
        model: a model of transformers in evaluation mode, with frozen parameters.
        form: what is shifted; of neurons the default only.
        sites: the units: experts of a mixture, or neurons of a dense model.

    Raises:
        SteeringError: the model's routers are not known or cannot be steered, their number is not
            that of the form's steps, or neurons are given another form.
    """

    def __init__(self, model: PreTrainedModel, form: Form = Form(), sites: Sites = EXPERTS) -> None:
        if sites != EXPERTS and form != Form():
            raise SteeringError(
                "neurons have neither logits nor correction biases, and no selection that a step "
                "could change; leave form, channel and step out"
            )
        super().__init__(model)
        self.form, self.sites = form, sites
        steps = form.steps or ()
        self._layers = reroutings(find_routers(model), form.channel, steps) if steps else ()

    def __call__(
        self, texts: Sequence[ScoredText], at: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the log-likelihood of each text, and each unit's influence on it.

        Args:
            texts: the texts.
            at: [layers, experts], a shift at which both are computed; None: zero. Not for the
                routing-exact form, nor for neurons.

        Returns:
            [texts] and [texts, layers, experts], float32 on the CPU (float64 where the model is).
        """
        device = entrance(self.model)
        ids, mask = pad([one.tokens for one in texts], device)
        starts = torch.tensor([one.start for one in texts], device=device)
        places = torch.arange(1, ids.shape[1], device=device)
        share = mask[:, 1:] * (places >= starts.unsqueeze(1))
        wide = torch.promote_types(self.model.dtype, torch.float32)
        if self.sites != EXPERTS:
            return self._of_neurons(ids, share.to(wide))
        routers = find_routers(self.model)
        shift = torch.zeros(
            (len(texts), len(routers), routers[0].experts), dtype=wide, device=device
        )
        if at is not None:
            shift += at.to(shift)
        shift.requires_grad_()
        loss, gradient, exact = self._pass(ids, share.to(wide), shift, routers)
        if self.form.steps is not None:
            gradient = torch.stack(exact, 1)
        elif self.form.channel == "score":
            gradient = torch.zeros_like(gradient)
        return -loss.cpu(), gradient.detach().to("cpu", wide)

    def _of_neurons(self, ids: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        sites = neurons_of(find_sites(self.model, self.sites))
        embeddings = self.model.get_input_embeddings()(ids).detach().requires_grad_()
        with self.within_memory(ids), neuron_slopes(sites, len(ids), share.dtype) as slopes:
            with torch.enable_grad():
                ends, head = self.ends(embeddings)
            slope, loss = loss_gradient(ends, head, ids, share, self._logits, losses=True)
            torch.autograd.grad(ends, embeddings, -slope)
        return -loss.cpu(), slopes()

    def _pass(
        self, ids: Tensor, share: Tensor, shift: Tensor, routers: Sequence[Router]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        channel: Channel = "weight" if self.form.channel == "weight" else "logit"
        embeddings = self.model.get_input_embeddings()(ids).detach()
        exact: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(self.within_memory(ids))
            shifts = stack.enter_context(shifted_routers(routers, shift, channel))
            for layer, one in zip(self._layers, shifts, strict=bool(self._layers)):
                exact.append(torch.zeros_like(shift[:, 0]).detach())
                stack.enter_context(layer.watching(one, exact[-1]))
            with torch.enable_grad():
                ends, head = self.ends(embeddings)
            slope, loss = loss_gradient(ends, head, ids, share, self._logits, losses=True)
            (gradient,) = torch.autograd.grad(ends, shift, -slope)
        return loss, gradient, exact

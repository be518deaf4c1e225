"""References for influence that share no code with it.

They shift logits where every router of transformers computes them, in `F.linear`, and run one text
at a time.
"""

import functools
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn import functional

from dsmoe_eval.experts.influence import ScoredText
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import find_routers

from ..conftest import VOCABULARY

CARDS = [name for name in builtin_names("models") if load_model_card(name).transformers]
LINEAR = functional.linear
STEP = 0.5


def drawn(model, *sizes):
    """Texts of random tokens: (length, start) of each."""
    generator = torch.Generator().manual_seed(1)
    most = min(VOCABULARY, model.config.get_text_config().vocab_size)
    return [
        ScoredText(tuple(torch.randint(2, most, (n,), generator=generator).tolist()), start)
        for n, start in sizes
    ]


def prepared(model):
    """Freeze a model, and make its experts felt: as they are drawn, they hardly are."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for router in find_routers(model):
        for name, parameter in router.consumer.named_parameters():
            if "bias" not in name:
                parameter.mul_(4)
    return model


@functools.cache
def build(name, dtype=torch.float32):
    model = miniature(card_config(load_model_card(name)))
    return prepared(model if dtype == torch.float32 else doubled(model))


def doubled(model):
    model.set_experts_implementation("eager")  # the others refuse float64
    model = model.double()
    for router in find_routers(model):
        if "Ernie" in type(router.module).__name__:
            router.module.float()  # as it would make of its weight itself
    return model


@contextmanager
def shifted(model, shift):
    """Add `shift`, [layers, experts], to the logits of all tokens."""
    rows = {id(one.weight): at for at, one in enumerate(find_routers(model))}

    def linear(values, weight, bias=None):
        logits = LINEAR(values, weight, bias)
        if id(weight) not in rows:
            return logits
        added = torch.zeros(logits.shape[-1], dtype=shift.dtype)
        added = torch.cat([shift[rows[id(weight)]], added[shift.shape[1] :]])
        return logits + added.to(logits.dtype)

    with patch.object(functional, "linear", linear):
        yield


def likelihood(model, text):
    """The log-likelihood of one text, from all its logits."""
    ids = torch.tensor([text.tokens])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
    return logits.gather(-1, ids[0, 1:, None])[text.start - 1 :].sum()


def zeros(model):
    routers = find_routers(model)
    return torch.zeros(len(routers), routers[0].experts, dtype=model.dtype)


def by_autograd(model, text):
    shift = zeros(model).requires_grad_()
    with shifted(model, shift):
        value = likelihood(model, text)
        return value.detach(), torch.autograd.grad(value, shift)[0]


def assert_near(got, expected, share):
    """Equal up to a share of the largest entry."""
    largest = float(expected.abs().max())
    assert largest > 0
    assert float((got - expected).abs().max()) <= share * largest


@contextmanager
def experts_outputs(model):
    """The outputs of all layers' experts in the last forward pass, which keep their gradients."""
    seen = {}

    def keep(layer):
        def hook(_module, _args, output):
            seen[layer] = output
            if output.requires_grad:
                output.retain_grad()

        return hook

    routers = find_routers(model)
    handles = [one.consumer.register_forward_hook(keep(at)) for at, one in enumerate(routers)]
    yield seen
    for handle in handles:
        handle.remove()


def slopes(model, text):
    """d(log-likelihood) / d(experts' output) and that output, by layer."""
    shift = zeros(model).requires_grad_()
    with experts_outputs(model) as seen, shifted(model, shift):
        likelihood(model, text).backward()
        return {at: (one.grad, one.detach()) for at, one in seen.items()}


def by_force(model, text, experts, context):
    """The routing-exact form, by whole forward passes in `context(layer, expert)`."""
    slope, result = slopes(model, text), torch.zeros_like(zeros(model))
    for layer, (gradient, before) in slope.items():
        for expert in experts:
            with torch.no_grad(), experts_outputs(model) as seen, context(layer, expert):
                likelihood(model, text)
            result[layer, expert] = (gradient * (seen[layer] - before)).sum() / STEP
    return result[:, experts]

"""Slopes of neurons, against autograd with explicit factors and central differences."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional

from dsmoe_eval.experts.influence import Form, Influence, ScoredText
from dsmoe_eval.experts.memory import checkpoint_layers, checkpointed
from dsmoe_eval.steering import Sites, SteeringError, find_neurons, neuron_slopes

from ..dense import DENSE, LAYERS, VOCABULARY, WIDTH, dense_model, down

SIZES = ((9, 1), (4, 2), (7, 4))


def texts():
    draw = torch.Generator().manual_seed(1)
    return [
        ScoredText(tuple(torch.randint(2, VOCABULARY, (n,), generator=draw).tolist()), start)
        for n, start in SIZES
    ]


@contextmanager
def multiplied(model, kind, factors):
    """The neurons multiplied by `factors`, [layers, neurons], by hooks of the test's own."""

    def hook(factor):
        return lambda _module, given: (given[0] * factor,)

    handles = [
        down(model, kind, layer).register_forward_pre_hook(hook(factors[layer]))
        for layer in range(LAYERS)
    ]
    yield
    for handle in handles:
        handle.remove()


def likelihood(model, text):
    ids = torch.tensor([text.tokens])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    return logits.gather(-1, ids[0, 1:, None])[text.start - 1 :].sum()


def frozen_model(kind):
    """A model that is float64 all through: transformers' norms would round to float32."""
    model = dense_model(kind).double().requires_grad_(False)
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            weight = module.weight + 1 if kind == "gemma" else module.weight
            module.forward = lambda x, w=weight: functional.rms_norm(x, w.shape, w, 1e-6)
    return model


@pytest.mark.parametrize("kind", DENSE)
def test_each_text_of_a_batch_equals_autograd_and_differences(kind):
    model, step = frozen_model(kind), 1e-4
    values, found = Influence(model, sites=Sites(kind="neurons"))(texts())
    assert found.shape == (len(SIZES), LAYERS, WIDTH)
    for row, text in enumerate(texts()):
        factors = torch.ones(LAYERS, WIDTH, dtype=torch.float64, requires_grad=True)
        with multiplied(model, kind, factors):
            value = likelihood(model, text)
            (expected,) = torch.autograd.grad(value, factors)
        assert float(values[row]) == pytest.approx(float(value.detach()), abs=1e-5)
        largest = float(expected.abs().max())
        assert largest > 1e-3
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5 * largest)
    for flat in expected.abs().flatten().topk(4).indices.tolist():  # of the last text
        both = []
        for sign in (1, -1):
            factors = torch.ones(LAYERS, WIDTH, dtype=torch.float64)
            factors.view(-1)[flat] += sign * step
            with multiplied(model, kind, factors), torch.no_grad():
                both.append(float(likelihood(model, text)))
        slope = (both[0] - both[1]) / (2 * step)
        assert float(found[-1].view(-1)[flat]) == pytest.approx(slope, rel=1e-6, abs=1e-6 * largest)


@pytest.mark.parametrize("kind", DENSE)
def test_a_block_has_the_sum_of_its_neurons(kind):
    model = frozen_model(kind)
    single = Influence(model, sites=Sites(kind="neurons"))(texts())[1]
    blocks = Influence(model, sites=Sites(kind="neurons", block=8))(texts())[1]
    torch.testing.assert_close(blocks, single.unflatten(-1, (-1, 8)).sum(-1))


def test_layers_that_are_computed_again_give_the_same_and_keep_nothing():
    model = frozen_model("llama")
    ids = torch.tensor([texts()[0].tokens] * 2)
    kept = []
    for again in (False, True):
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        with neuron_slopes(find_neurons(model), 2, torch.float64) as slopes:
            layers = checkpoint_layers(model) if again else []
            assert bool(layers) == again
            with checkpointed(layers):
                model(inputs_embeds=embeddings, use_cache=False).logits.square().sum().backward()
            kept.append(slopes())
    assert kept[0].abs().max() > 0
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)
    assert not any(site.module._forward_pre_hooks for site in find_neurons(model))


def test_steps_and_channels_of_neurons_are_refused():
    for form in (Form("weight"), Form(steps=(0.5,) * LAYERS)):
        with pytest.raises(SteeringError, match="leave form, channel and step out"):
            Influence(frozen_model("llama"), form, Sites(kind="neurons"))

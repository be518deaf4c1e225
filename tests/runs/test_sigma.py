"""Strength in units of sigma, the spread of a layer's logits over experts, from text to logits."""

import numpy as np
import pytest
import torch

from dsmoe_eval.cards import Identification, Tuning
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import encode_documents
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import (
    count_domains,
    domain_texts,
    identify,
)
from dsmoe_eval.runs.identified import counts_to_json
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.steering import Intervention, find_routers, logit_shift, steer
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.variants import shift_ranges, sigmas_of

STRENGTH = 1.5


@pytest.fixture(scope="module")
def engine():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def tasks():
    suite = load_suite("lab")
    return load_tasks(suite, suite.identification_tasks, "identification", 3)


@pytest.fixture(scope="module")
def counts(engine, tasks, tmp_path_factory):
    wanted = IdentificationSpec(Identification(), saliency=True, contributions=False, markers={})
    return count_domains(engine, tasks, wanted, tmp_path_factory.mktemp("o"), lambda _: None)


def logits_of(model, ids):
    """Every router's input and weight, multiplied in NumPy: layer -> [tokens, experts]."""
    seen, handles = {}, []
    for router in find_routers(model):

        def keep(_module, args, layer=router.layer, weight=router.weight):
            hidden = args[0].detach().double().flatten(0, -2).numpy()
            seen[layer] = hidden @ weight.detach().double().numpy().T

        handles.append(router.module.register_forward_pre_hook(keep))
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    for handle in handles:
        handle.remove()
    return seen, out


def test_sigma_is_the_mean_over_tokens_of_the_deviation_over_experts(engine, tasks, counts):
    spreads = {}
    for document in encode_documents(engine.tokenizer, domain_texts(tasks)):
        kept = np.array(document.kept)
        for layer, logits in logits_of(engine.loaded.model, document.tokens)[0].items():
            deviation = np.sqrt(((logits - logits.mean(1, keepdims=True)) ** 2).mean(1))
            spreads.setdefault(layer, []).append(deviation[kept])
    expected = {layer: np.concatenate(each).mean() for layer, each in spreads.items()}
    assert sigmas_of(counts) == pytest.approx(expected, rel=1e-6)
    assert counts_to_json(counts, [])["sigmas"] == list(counts.sigmas().values())


@pytest.fixture(scope="module")
def profile(engine, tmp_path_factory):
    by_sigma = Intervention(kind="bias", strength=STRENGTH, unit="sigma")
    root = tmp_path_factory.mktemp("p")
    return identify(
        engine, "lab", "law", "dsmoe", intervention=by_sigma, experts=12, limit=3, root=root
    )


def test_identification_carries_sigmas_and_steering_adds_their_multiple(engine, counts, profile):
    assert dict(profile.intervention.sigmas) == counts.sigmas()
    model, ids = engine.loaded.model, engine.tokenizer("Which law is it?")["input_ids"]
    base, out = logits_of(model, ids)
    with steer(model, profile.with_strength(0.0)):
        assert torch.equal(logits_of(model, ids)[1], out)
    for layer, experts in profile.by_layer().items():
        shift = logit_shift(profile.intervention, experts[0])
        assert shift == pytest.approx(STRENGTH * counts.sigmas()[layer], abs=1e-6)
    first = min(profile.by_layer())
    odds = Intervention(kind="bias", strength=np.expm1(STRENGTH * counts.sigmas()[first]))
    alone = profile.model_copy(
        update={"experts": tuple(e for e in profile.experts if e.layer == first)}
    )
    in_odds = alone.model_copy(update={"intervention": odds})
    with steer(model, alone):
        one = logits_of(model, ids)[1]
    with steer(model, in_odds):
        torch.testing.assert_close(logits_of(model, ids)[1], one, atol=1e-5, rtol=1e-5)
    assert not torch.equal(one, out)
    assert list(base) == list(counts.layers)


def test_the_range_in_both_units(counts, profile):
    own = [STRENGTH * counts.sigmas()[layer] for layer in profile.by_layer()]
    ranges = shift_ranges(profile, counts.sigmas())
    assert ranges["unit"] == "sigma"
    assert ranges["log_odds"] == pytest.approx((min(own), max(own)))
    assert ranges["sigmas"] == pytest.approx((STRENGTH, STRENGTH))
    odds = Intervention(kind="bias", strength=np.e - 1)
    ranges = shift_ranges(profile.model_copy(update={"intervention": odds}), None)
    assert ranges == {"unit": "odds", "log_odds": (1.0, 1.0)}
    amplify = Intervention(kind="amplify", strength=1.0)
    assert shift_ranges(profile.model_copy(update={"intervention": amplify}), None) == {}


def test_a_router_without_spread_is_refused(counts):
    flat = counts.resampled(counts.weight * 1.0)
    object.__setattr__(flat, "spread", np.zeros_like(counts.spread))
    with pytest.raises(UserError, match=r"layer 0: the router gives all experts the same logit"):
        sigmas_of(flat)


def test_a_plan_gives_bias_in_one_unit():
    tuning = Tuning(expert_counts=(1,), strengths={"bias_sigma": (0.5, 2), "amplify": (1,)})
    assert tuning.of("bias") == ("sigma", (0.5, 2.0))
    assert tuning.of("amplify") == ("odds", (1.0,))
    assert tuning.of("mask") is None
    with pytest.raises(ValueError, match="not of both"):
        Tuning(expert_counts=(1,), strengths={"bias_sigma": (1,), "bias": (1,)})
    with pytest.raises(ValueError, match=r"strengths\.amplify_sigma"):
        Tuning(expert_counts=(1,), strengths={"amplify_sigma": (1,)})

"""The algebra of folding, in float64 and without a checkpoint."""

import pytest
import torch

from dsmoe_eval.steering import Intervention, SteeringError, find_routers, fold, steer

from ..conftest import make_model


def randomised(architecture, **scales):
    """A model whose norms and biases are not the ones and zeros that they start as."""
    model = make_model(architecture)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name or name.endswith("bias"):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * scales.get("std", 0.2))
    return model


def test_a_logit_shift_folds_into_the_linear_after_a_layernorm(make_profile):
    model = randomised("phimoe").double()
    router = find_routers(model)[1]
    folded = fold(model, make_profile(model, [(1, 3), (1, 5)], "bias", 4.0))
    assert list(folded) == [f"{router.name}.weight"]
    hidden = torch.randn(50, 32, dtype=torch.float64)
    x = model.model.layers[1].post_attention_layernorm(hidden)
    difference = x @ folded[f"{router.name}.weight"].T - x @ router.weight.T
    expected = torch.zeros(8, dtype=torch.float64)
    expected[[3, 5]] = torch.tensor(5.0, dtype=torch.float64).log()
    torch.testing.assert_close(difference, expected.expand(50, 8), rtol=1e-6, atol=1e-6)


def test_a_bias_of_the_router_takes_the_shift(make_profile):
    model = randomised("gpt_oss")
    folded = fold(model, make_profile(model, [(0, 3)], "bias", 4.0))
    router = find_routers(model)[0]
    (name,) = folded
    expected = router.module.bias.detach().clone()
    expected[3] += torch.tensor(5.0).log()
    assert name == f"{router.name}.bias"
    torch.testing.assert_close(folded[name], expected)


def test_a_shift_for_each_expert_folds_and_equals_the_hooks(make_profile, batch):
    model, baked = randomised("gpt_oss"), randomised("gpt_oss")
    pairs = [(layer, expert) for layer in range(2) for expert in range(1, 6)]
    profile = make_profile(model, pairs)
    profile = profile.model_copy(
        update={
            "experts": tuple(
                one.model_copy(update={"score": 0.7 * (-1) ** at + 0.1 * at})
                for at, one in enumerate(profile.experts)
            ),
            "intervention": Intervention(kind="bias", strength=1.0, unit="scores"),
        }
    )
    baked.load_state_dict(fold(model, profile), strict=False)
    with torch.no_grad():
        base = model(*batch).logits
        with steer(model, profile):
            hooked = model(*batch).logits
        torch.testing.assert_close(baked(*batch).logits, hooked, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(hooked, base, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "olmoe", "qwen2_moe", "mixtral"])
def test_elsewhere_it_is_refused_and_the_way_out_is_named(architecture, make_profile):
    model = make_model(architecture)
    with pytest.raises(SteeringError, match="steer it at run time"):
        fold(model, make_profile(model, [(0, 3)], "bias", 4.0))


@pytest.mark.parametrize("kind", ["reweight", "amplify", "force", "mask"])
def test_what_depends_on_each_tokens_choice_is_refused(kind, make_profile):
    model = make_model("gpt_oss")
    with pytest.raises(SteeringError, match=f"{kind} depends on each token"):
        fold(model, make_profile(model, [(0, 3)], kind, 1.0))


def test_layernorm_biases_that_cancel_are_refused(make_profile):
    model = make_model("phimoe")  # fresh: gains one, biases zero
    profile = make_profile(model, [(0, 3)], "bias", 4.0)
    with pytest.raises(SteeringError, match="biases are zero"):
        fold(model, profile)
    with torch.no_grad():
        bias = model.model.layers[0].post_attention_layernorm.bias
        bias.copy_(torch.tensor([1.0, -1.0]).repeat(16))
        bias[0] += 1e-4
    with pytest.raises(SteeringError, match="nearly cancel"):
        fold(model, profile)

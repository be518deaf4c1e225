"""Zero biases change no bit on a CPU, and stay below steering."""

import pytest
import torch
from torch.nn import functional

from dsmoe_eval.steering import SteeringError, add_zero_biases, probe, steer
from dsmoe_eval.steering.zero_bias import zero_biases

from .test_steer import run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_zero_bias_changes_no_bit_on_a_cpu(dtype):
    """Why base needs none there."""
    generator = torch.Generator().manual_seed(0)
    for tokens in (1, 2, 7, 64):
        for hidden, experts in ((32, 8), (100, 60), (512, 128)):
            x = torch.randn(tokens, hidden, generator=generator).to(dtype)
            weight = torch.randn(experts, hidden, generator=generator).to(dtype)
            zeros = torch.zeros(experts, dtype=dtype)
            assert torch.equal(functional.linear(x, weight), functional.linear(x, weight, zeros))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_zero_biases_of_base_stay_below_steering(model, batch, make_profile, dtype):
    model.to(dtype)
    before, classes = run(model, *batch), [type(module) for module in model.modules()]
    profiles = [make_profile(model, [(0, 3)], kind, 4.0) for kind in ("bias", "reweight")]
    steered = []
    for profile in profiles:
        with steer(model, profile):
            steered.append(run(model, *batch))
    keys = list(model.state_dict())
    with zero_biases(model, "cpu"):
        assert not add_zero_biases(model, "cpu")  # it has them
        assert all(map(torch.equal, run(model, *batch), before))
        for profile, expected in zip(profiles, steered, strict=True):
            with steer(model, profile):
                assert all(map(torch.equal, run(model, *batch), expected))
                with pytest.raises(SteeringError, match="steered already"):
                    steer(model, profile).install()
            assert all(map(torch.equal, run(model, *batch), before))
            assert probe(model, profile, *batch).null_max_difference == 0.0
        assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert not any("_dsmoe" in name for m in model.modules() for name in vars(m))

"""What a kind does not mean under a router's rule is refused by name, and the rest is kept."""

import random
from dataclasses import replace

import pytest
import torch

from dsmoe_eval.models.probing import probe_model
from dsmoe_eval.steering import (
    ChosenExpert,
    Intervention,
    SteeringError,
    capture_routing,
    check_meaning,
    find_routers,
    steer,
)
from dsmoe_eval.steering.scoring import Groups

from ..conftest import profile_of
from .test_scoring import CORRECTED, RULES, SIGMOID, SOFTMAX, small


def chosen(*experts, activate=True):
    return [ChosenExpert(layer=0, expert=e, score=1.0, activate=activate) for e in experts]


def intervention(kind, strength=1.0, **rest):
    return Intervention(kind=kind, strength=strength, **rest)


@pytest.mark.parametrize(
    ("what", "experts", "scoring", "reason"),
    [
        (intervention("bias", channel="score"), chosen(1), SOFTMAX, "use the logit channel"),
        (intervention("mask"), chosen(*range(7)), SOFTMAX, "mask of 7 of 8 experts"),
        (intervention("force"), chosen(1), SIGMOID, "log_softmax"),
        (intervention("force"), chosen(1), RULES["phimoe"], "log_softmax"),
        (intervention("force"), chosen(1), CORRECTED, "correction bias"),
        (intervention("force"), chosen(1, 2, 3), SOFTMAX, "cannot activate 3 experts"),
        (intervention("force"), chosen(*range(7), activate=False), SOFTMAX, "deactivate 7 in"),
    ],
)
def test_a_meaning_that_does_not_carry_over_is_refused_by_name(what, experts, scoring, reason):
    with pytest.raises(SteeringError, match=reason):
        check_meaning(what, experts, scoring, experts=8, top_k=2)


@pytest.mark.parametrize("scoring", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("kind", ["reweight", "amplify", "bias", "mask"])
def test_the_rest_is_allowed_on_every_router(scoring, kind):
    check_meaning(intervention(kind), chosen(1), scoring, experts=8, top_k=2)


GROUPED = {
    "deepseek_v3": {"n_routed_experts": 16},
    "glm4_moe": {"n_routed_experts": 16},
    "deepseek_v2": {"n_routed_experts": 16, "topk_method": "group_limited_greedy"},
    "axk2": {"n_routed_experts": 16},
}


def grouped(architecture, bias=0.0):
    """Build a router that keeps 2 of 4 groups of 4 experts, and selects 4."""
    groups = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}
    model = small(architecture, **groups, **GROUPED[architecture])
    for router in find_routers(model):
        if router.correction_bias is not None:
            generator = torch.Generator().manual_seed(router.layer)
            noise = torch.randn(router.correction_bias.shape, generator=generator)
            with torch.no_grad():
                router.correction_bias.copy_(bias + 0.2 * noise)
    return model


@torch.no_grad()
def routed(model, profile):
    """Return the experts of many tokens, [tokens, layers, k]: a forward of the whole model."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (8, 32), generator=generator)
    with steer(model, profile), capture_routing(find_routers(model)) as routing:
        model(input_ids=ids, use_cache=False)
    return routing.indices()


@pytest.mark.parametrize("bias", [-3.0, 0.0, 7.0])
@pytest.mark.parametrize("architecture", list(GROUPED))
def test_case_08_a_mask_is_kept_or_refused_where_groups_limit_the_choice(architecture, bias):
    model, draw, outcomes = grouped(architecture, bias), random.Random(0), set()
    for _ in range(30):
        experts = draw.sample(range(16), draw.randint(1, 12))
        profile = profile_of(model, "mask", experts=experts)
        try:
            selected = routed(model, profile)
        except SteeringError:
            outcomes.add("refused")
            with pytest.raises(SteeringError, match="mask"):
                probe_model(model, profile.model, profile)
        else:
            outcomes.add("kept")
            assert not torch.isin(selected, torch.tensor(experts)).any()
            if len(outcomes) == 1:
                assert probe_model(model, profile.model, profile).passed
    leaks = architecture == "axk2" and bias <= 0
    assert outcomes == ({"refused"} if leaks else {"kept", "refused"})


@pytest.mark.parametrize(
    ("masked", "left"),
    [
        ([0, 1, 2], None),  # one expert is left in a group, and three groups are whole
        ([0, 1, 2, 4, 5, 6], None),
        ([0, 1, 2, 4, 5, 6, 8, 9, 10], 2 + 3),
        ([0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13], 3),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 4),
        ([0, 1, 2, 4, 5, 8, 9, 10, 12, 14], 4),
    ],
)
def test_case_08_experts_are_counted_in_the_groups_that_are_kept(masked, left):
    model = grouped("deepseek_v3")
    if left is None or left >= 4:
        assert not torch.isin(
            routed(model, profile_of(model, "mask", experts=masked)), torch.tensor(masked)
        ).any()
    else:
        with pytest.raises(SteeringError, match=f"as few as {left} experts in the 2 of 4 groups"):
            routed(model, profile_of(model, "mask", experts=masked))


@pytest.mark.parametrize(
    ("experts", "activate", "reason"),
    [
        ([0, 5], True, None),
        ([0, 5, 9], True, "experts of 3 groups in a router that keeps 2 of 4"),
        ([0, 1, 4, 5, 8, 9, 12], False, None),
        ([0, 1, 2, 4, 5, 6], False, "force leaves as few as 2 experts"),
    ],
)
def test_case_08_force_counts_groups_too(experts, activate, reason):
    model = grouped("deepseek_v2")
    profile = profile_of(model, "force", experts=experts)
    changed = [one.model_copy(update={"activate": activate}) for one in profile.experts]
    profile = profile.model_copy(update={"experts": tuple(changed)})
    if reason is None:
        selected = routed(model, profile)
        for expert in experts:
            used = (selected == expert).any(-1)
            assert used.all() if activate else not used.any()
    else:
        with pytest.raises(SteeringError, match=reason):
            routed(model, profile)


def test_case_08_a_group_rated_by_two_scores_needs_two_forced_experts():
    scoring = replace(SOFTMAX, groups=Groups(count=4, kept=2, by_best=False))
    check_meaning(intervention("force"), chosen(0, 1, 4, 5), scoring, experts=16, top_k=4)
    with pytest.raises(SteeringError, match="at least two of each"):
        check_meaning(intervention("force"), chosen(0, 1, 4), scoring, experts=16, top_k=4)

"""The losses in a model's forward pass, against the outputs of its experts computed by hand."""

import torch
from torch import nn

from dsmoe_eval.experts.similarity import cka
from dsmoe_eval.steering import find_routers
from dsmoe_eval.studies.simsmoe_losses import DebiasedLoss, PublishedLoss
from dsmoe_eval.studies.simsmoe_training import SmallTraining, new_model
from dsmoe_eval.variants.expert_penalties import ExpertCall, watched_experts

TRAINING = SmallTraining(
    "none", 0, 1, hidden=32, heads=1, experts=4, expert_width=16, length=64, batch=9
)
IDS = torch.randint(2, 29, (9, 64), generator=torch.Generator().manual_seed(1))


def watched():
    model = new_model(TRAINING)
    calls = dict[int, ExpertCall]()
    with watched_experts(find_routers(model), calls):
        model(input_ids=IDS, use_cache=False)
    return model, list(calls.values())


def by_hand(model, call, expert, rows):
    """SwiGLU of one expert, from its rows of the fused weights."""
    experts = model.model.layers[call.router.layer].mlp.experts
    gate, up = (call.hidden[rows] @ experts.gate_up_proj[expert].T).chunk(2, -1)
    return (nn.functional.silu(gate) * up) @ experts.down_proj[expert].T


def test_the_debiased_loss_is_the_mean_over_the_most_shared_pairs():
    model, calls = watched()
    expected = []
    for call in calls:
        chosen = [set(row) for row in call.indices.tolist()]
        rows = {
            (i, j): torch.tensor([at for at, row in enumerate(chosen) if {i, j} <= row])
            for i in range(4)
            for j in range(i + 1, 4)
        }
        best = sorted(rows, key=lambda pair: (-len(rows[pair]), pair))[:4]
        expected += [
            max(0.0, cka(*(by_hand(model, call, one, rows[pair]) for one in pair)))
            for pair in best
            if len(rows[pair]) >= 64
        ]
    found = DebiasedLoss()(calls)
    assert len(found.similarities) == len(expected) > 0
    torch.testing.assert_close(found.loss, torch.tensor(sum(expected) / len(expected)))


def test_gradients_reach_experts_only():
    model, calls = watched()
    published = PublishedLoss(find_routers(model), TRAINING.hidden, often=0.01)
    for loss in (DebiasedLoss(), published):
        found = loss(calls)
        assert float(found.loss.detach()) > 0
        found.loss.backward(retain_graph=True)
    reached = {name for name, one in model.named_parameters() if one.grad is not None}
    assert reached == {
        f"model.layers.{layer}.mlp.experts.{name}"
        for layer in range(TRAINING.layers)
        for name in ("gate_up_proj", "down_proj")
    }
    assert all(one.grad is not None for one in published.parameters())


def test_counters_are_part_of_the_state():
    model, calls = watched()
    loss = PublishedLoss(find_routers(model), TRAINING.hidden, often=9.0)
    loss(calls)
    kept = loss.state_dict()["shares"].clone()
    assert torch.allclose(kept.sum((1, 2)), torch.ones(TRAINING.layers))
    other = PublishedLoss(find_routers(model), TRAINING.hidden, often=9.0)
    other.load_state_dict(loss.state_dict())
    other(calls)
    assert torch.allclose(other.state_dict()["shares"], 2 * kept)

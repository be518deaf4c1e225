"""Training of small models: the same again, after a crash too, and which terms a loss has."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsmoe_eval.errors import UserError
from dsmoe_eval.studies import simsmoe_losses, simsmoe_training
from dsmoe_eval.studies.simsmoe_losses import PublishedLoss
from dsmoe_eval.studies.simsmoe_training import OBJECTIVES, SmallTraining, train_small

TEXT = torch.randint(2, 29, (3000,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Let pairs be due in a short training, and save often."""
    monkeypatch.setattr(simsmoe_training, "PublishedLoss", partial(PublishedLoss, often=0.5))
    monkeypatch.setattr(simsmoe_training, "SAVED_EVERY", 4)


def small(objective, steps=8, seed=0):
    return SmallTraining(
        objective, seed, steps, hidden=32, heads=1, experts=4, expert_width=16, length=64, batch=9
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def stop_after(steps):
    left = [steps]

    def advance(_done):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("objective", ["published", "debiased"])
def test_a_stopped_training_goes_on_bit_for_bit(objective, tmp_path):
    whole = train_small(small(objective), TEXT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_small(small(objective), TEXT, tmp_path / "stopped", stop_after(6))
    assert train_small(small(objective), TEXT, tmp_path / "stopped") == whole
    one, other = (weights(tmp_path / name / "step-8") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "state.safetensors", "step-2", "step-8",
    ]  # fmt: skip


def test_checkpoints_of_a_training_that_was_stopped_early_are_not_taken_for_another_ones(tmp_path):
    """It was stopped before its state was saved, so that nothing but a checkpoint is there."""
    with pytest.raises(KeyboardInterrupt):
        train_small(small("none", 8), TEXT, tmp_path / "both", stop_after(3))
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["step-2"]
    train_small(small("none", 9, seed=1), TEXT, tmp_path / "both")
    train_small(small("none", 9, seed=1), TEXT, tmp_path / "alone")
    one, other = (weights(tmp_path / name / "step-2") for name in ("both", "alone"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_objectives_differ_and_share_their_beginning(tmp_path):
    logs = {name: train_small(small(name), TEXT, tmp_path / name) for name in OBJECTIVES}
    assert len({log[-1].text for log in logs.values()}) == len(OBJECTIVES)
    assert all(log[-1].similarity is None for log in (logs["none"], logs["balance"]))
    assert all(log[-1].similarities is not None for log in (logs["published"], logs["debiased"]))
    steps = {name: simsmoe_training.new_model(small(name)).state_dict() for name in OBJECTIVES}
    for name, tensor in steps["none"].items():
        assert all(torch.equal(tensor, one[name]) for one in steps.values())


def test_another_training_in_the_folder_is_refused(tmp_path):
    train_small(small("none", 4), TEXT, tmp_path)
    with pytest.raises(UserError, match="is of another training"):
        train_small(small("none", 4, seed=1), TEXT, tmp_path)


def weigh(patch, of, objective, value):
    patch.setattr(simsmoe_training, of, {**getattr(simsmoe_training, of), objective: value})


@pytest.mark.parametrize(
    ("objective", "change"),
    [
        ("published", lambda p: p.setattr(
            simsmoe_training, "PublishedLoss", partial(PublishedLoss, often=16.0))),
        ("published", lambda p: p.setattr(simsmoe_losses, "THRESHOLD", 0.6)),
        ("published", lambda p: p.setattr(simsmoe_losses, "SIGMA", 1.0)),
        ("published", lambda p: weigh(p, "SIMILARITY", "published", 0.02)),
        ("debiased", lambda p: p.setattr(simsmoe_losses, "FLOOR", 0.5)),
        ("debiased", lambda p: p.setattr(simsmoe_losses, "PAIRS", 3)),
        ("debiased", lambda p: p.setattr(simsmoe_losses, "FEWEST_TOKENS", 32)),
        ("balance", lambda p: weigh(p, "BALANCE", "balance", 0.1)),
    ],
)  # fmt: skip
def test_another_loss_is_another_training(objective, change):
    def identity():
        return simsmoe_training._State(small(objective), "text").identity

    before = identity()
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        assert identity() != before
    assert identity() == before


@pytest.mark.parametrize("named", [True, False])
def test_a_training_with_another_loss_is_not_gone_on_with(named, tmp_path):
    """Nor one that does not say which loss it has, as older versions wrote it."""
    train_small(small("none", 1), TEXT, tmp_path)
    path = tmp_path / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about.pop("loss") == {"balance": 0.0, "similarity": 0.0}
    about |= {"loss": {"balance": 0.1, "similarity": 0.0}} if named else {}
    save_file(load_file(path), path, metadata={"training": json.dumps(about)})
    with pytest.raises(UserError, match=r"is of another training \(loss .*, now "):
        train_small(small("none", 1), TEXT, tmp_path)


def test_a_damaged_state_is_an_error_that_says_what_to_do(tmp_path):
    train_small(small("none"), TEXT, tmp_path)
    state = tmp_path / "state.safetensors"
    for content in (state.read_bytes()[:-9], state.read_bytes()[:9], b""):
        state.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.safetensors: cannot be read .* delete it"):
            train_small(small("none"), TEXT, tmp_path)


def test_checkpoints_are_at_quarters():
    assert small("none", 640).checkpoints == (40, 160, 640)
    assert small("none", 3).checkpoints == (3,)

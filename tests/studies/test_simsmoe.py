"""The study as a whole on one small training, and its measures."""

import math

import pytest
import torch
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import seal, write_json
from dsmoe_eval.studies.simsmoe import SimsmoePlan, _measured, bits_of, simsmoe
from dsmoe_eval.studies.simsmoe_training import SmallTraining, new_model


def test_bits_are_those_of_each_character_alone():
    training = SmallTraining("none", 0, 1, hidden=32, heads=1, experts=4, expert_width=16)
    model = new_model(training).eval()
    document = torch.randint(2, 29, (300,), generator=torch.Generator().manual_seed(0))
    total = 0.0
    with torch.no_grad():
        for at in range(1, 300):
            start = (at - 1) // 256 * 256
            logits = model(input_ids=document[None, start:at]).logits[0, -1].double()
            total -= float(logits.log_softmax(-1)[document[at]]) / math.log(2)
    assert bits_of(model, document) == pytest.approx(total, rel=1e-5)


def test_the_plan_in_words_and_its_order():
    plan = SimsmoePlan.of(("debiased", "balance"), 2, 640)
    assert [one.name for one in plan.trainings] == [
        "balance-0", "debiased-0", "balance-1", "debiased-1",
    ]  # fmt: skip
    assert "4 trainings: balance, debiased, 2 seed(s) each; 640 steps" in plan.described()


@pytest.mark.parametrize("other", [{"objective": "none"}, {"seed": 1}, {"losses": [{"text": 2.0}]}])
def test_measures_of_another_training_are_refused(tmp_path, other):
    losses = [{"text": 1.5}]
    kept = {"objective": "balance", "seed": 0, "losses": losses}
    write_json(tmp_path / "measures.json", seal(kept))
    given = SmallTraining("balance", 0, 20), losses, tmp_path, None, lambda _: None
    assert _measured(*given) == kept
    write_json(tmp_path / "measures.json", seal(kept | other))
    with pytest.raises(UserError, match=r"measures\.json: is of another training than state"):
        _measured(*given)


@pytest.mark.full
def test_a_study_is_measured_once(tmp_path):
    plan, quiet = SimsmoePlan.of(("balance",), 1, 20), Console(quiet=True)
    result = simsmoe(plan, tmp_path, quiet)
    assert simsmoe(plan, tmp_path, quiet) == result
    (model,) = result["models"]
    assert [one["step"] for one in model["checkpoints"]] == [1, 5, 20]
    assert 3 < sum(model["bits"]) / sum(model["characters"]) < math.log2(29) + 0.1
    assert 0.5 < model["entropy"] <= 1

"""A report says first which arms did nothing, and what the trained ones took."""

import json

import pytest

from dsmoe_eval.reports.run_proofs import failed_warning, idle_sentences, proofs, training_costs
from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.acted import Acted
from dsmoe_eval.results.training import Training

from .made import shown


def with_acted(result, *verdicts):
    """The arms at their head with these verdicts."""
    acted = [
        Acted(kind="weights", figure=0.0, output_change=0.0, verdict=verdict)
        for verdict in verdicts
    ]
    arms = list(result.arms)
    for place, one in enumerate(acted):
        arms[place] = arms[place].model_copy(update={"acted": one})
    return result.model_copy(update={"arms": tuple(arms)})


def test_a_run_whose_arms_acted_has_no_warning(result):
    assert failed_warning(result) == ""
    assert idle_sentences(result) == []
    assert {row[5] for row in shown(proofs(result))} == {"acted"}


def test_an_arm_that_did_nothing_is_named_first(result):
    changed = with_acted(result, "failed", "idle")
    names = [f"{arm.variant} on {arm.target}" for arm in result.arms]
    assert failed_warning(changed).startswith(f"1 of {len(names)} arms did not act: {names[0]}.")
    (said,) = idle_sentences(changed)
    assert said.startswith(f"Nothing changes in {names[1]}: ")
    assert [row[5] for row in shown(proofs(changed))][:2] == ["FAILED", "idle"]


def test_learning_that_kept_its_start_is_said_to_have_done_so(result):
    changed = with_acted(result, "idle", "idle")
    arm = changed.arms[1].model_copy(update={"variant": "learned-profile-int4+wrong"})
    changed = changed.model_copy(update={"arms": (changed.arms[0], arm)})
    steered, learned = idle_sentences(changed)
    assert steered.startswith(f"Nothing changes in {changed.arms[0].variant} on ")
    assert learned.startswith(f"Nothing changes in learned-profile-int4+wrong on {arm.target}: ")
    assert "learning kept the shifts of its start" in learned


@pytest.mark.parametrize("there", [True, False])
def test_costs_are_those_that_training_left(result, folder, tmp_path, there):
    arm = result.arms[0]
    settings = Training(
        rank=None, lora_alpha=None, learning_rate=0.001, epochs=2, batch_size=4, recipe="esft",
        tokens=1234, steps=3, expert_count=7,
    )  # fmt: skip
    one = result.model_copy(update={"arms": (arm.model_copy(update={"settings": settings}),)})
    run = RunFolder(tmp_path)
    path = run.adapter(arm.variant, arm.target) / "training.json"
    record = {
        "recipe": "esft", "parameters": 5, "tokens": 1234, "steps": 3, "seconds": 2.5,
        "peak_bytes": 3 * 2**20, "changed": 3, "trained": 4, "experts": [[0, 1]],
    }  # fmt: skip
    if there:
        path.parent.mkdir(parents=True)
        run.write(path, json.dumps(record).encode())
    (row,) = shown(training_costs(run, one))
    measured = ("2.5", "3", "75.0%") if there else ("-", "-", "-")
    assert tuple(row[2:6]) == ("esft", "2", "0.001", "7")
    assert tuple(row[7:11]) == ("1,234", *measured)
    assert shown(training_costs(folder, result)) == []

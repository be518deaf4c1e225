"""What a report says of losses on the similarity of experts: each figure, and losses of zero."""

from dsmoe_eval.reports.run_similarity import plain_of, similarity_losses, similarity_sentences
from dsmoe_eval.results.training import SimilarityLoss, Training

from .made import follow, shown

NAMES = ("sft-lora-x2", "sft-lora-cka-x2", "sft-lora-cka-x2+zero", "sft-simsmoe-x2")
BITS = {"sft-lora-x2": "a" * 16, "sft-lora-cka-x2+zero": "a" * 16}


def settings(name, added):
    loss = SimilarityLoss(
        weight=0.0 if name.endswith("zero") else 0.01, threshold=0.5, pairs=7, steps_above=2,
        first_cka=0.625, last_cka=None, mean_loss=added,
    )  # fmt: skip
    return Training(
        rank=8, lora_alpha=16.0, learning_rate=0.1, epochs=2, batch_size=4, steps=6,
        weights=BITS.get(name, "b" * 16), similarity=None if name == "sft-lora-x2" else loss,
    )  # fmt: skip


def penalised(result, names=NAMES, added=0.25):
    """Arms of these names on two targets, made from those of the result."""
    first = {arm.target: arm for arm in result.arms}
    arms = []
    for name in names:
        for arm in first.values():
            mean = 0.0 if name.endswith("zero") else added
            over = arm.target_result if name in NAMES[1::2] else None
            changes = {"variant": name, "settings": settings(name, mean), "over_lora": over}
            arms.append(arm.model_copy(update=changes))
    return result.model_copy(update={"arms": tuple(arms)})


def test_there_is_a_row_for_each_training_with_a_loss(result):
    made = penalised(result)
    rows = shown(similarity_losses(made))
    assert [row[0] for row in rows] == [name for name in NAMES[1:] for _ in range(2)]
    own = made.arms[2]
    change = f"{100 * own.target_result.delta:+.1f} pp"
    assert rows[0][:9] == (
        "sft-lora-cka-x2", own.target, "0.01", "0.5", "7", "2 of 6", "0.625", "-", "0.25"
    )  # fmt: skip
    assert rows[0][10].startswith(change)
    assert (rows[2][8], rows[2][10]) == ("0", "equal weights")
    cell = similarity_losses(made).rows[0].cells[10]
    assert follow(made, cell.source)[0] == own.over_lora.delta
    assert similarity_losses(result).rows == ()


def test_losses_of_zero_and_controls_of_weight_zero_are_named(result):
    targets = list(dict.fromkeys(arm.target for arm in result.arms))
    said = similarity_sentences(penalised(result))
    assert said == [
        f"sft-lora-cka-x2+zero on {target}, whose loss has no weight, has the weights of "
        "sft-lora-x2 bit by bit, as it must."
        for target in targets
    ]
    said = similarity_sentences(penalised(result, NAMES[:2], added=0.0))
    assert said == [
        f"The similarity loss was zero in all 6 steps of sft-lora-cka-x2 on {target}: it trained "
        "as sft-lora."
        for target in targets
    ]
    made = penalised(result)
    changed = made.arms[0].settings.model_copy(update={"weights": "c" * 16})
    other = (made.arms[0].model_copy(update={"settings": changed}), *made.arms[1:])
    said = similarity_sentences(made.model_copy(update={"arms": other}))
    assert "has not the weights" in said[0]
    assert said[0].endswith("though it should have.")


def test_the_plain_training_is_that_of_the_budget_and_target(result):
    made = penalised(result)
    arm = made.arms[2]
    assert plain_of(arm, made) is made.arms[0]
    assert plain_of(arm, penalised(result, ("sft-lora-x3", "sft-lora"))) is None

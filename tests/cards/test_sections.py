"""The sections of plans: grids are checked, and a recipe has its settings."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import ResidualTuning, Sft
from dsmoe_eval.variants import get_variant


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": []}, "at least 1 item"),
        ({"depths": [1.5]}, "less than or equal to 1"),
        ({"depths": [[0.5, -1]]}, "greater than or equal to 0"),
        ({"strengths": [0]}, "greater than 0"),
        ({"layers": [1]}, "layers"),
    ],
)
def test_a_grid_of_vectors_is_checked(changes, words):
    content = {"depths": [0, 0.5, [0.25, 0.75]], "strengths": [1]}
    assert ResidualTuning.model_validate(content).depths == (0, 0.5, (0.25, 0.75))
    with pytest.raises(ValidationError, match=words):
        ResidualTuning.model_validate(content | changes)


def test_a_recipe_has_its_learning_rate_and_its_budget():
    rates = {"lora": 0.1, "esft": 0.2}
    sft = Sft(rank=8, lora_alpha=16, learning_rate=rates, epochs=4, batch_size=2)
    lora, esft = (sft.of(get_variant(name)) for name in ("sft-lora", "sft-esft-x3"))
    assert (lora.rate, lora.epochs, lora.rank) == (0.1, 4, 8)
    assert (esft.rate, esft.epochs, esft.rank, esft.lora_alpha) == (0.2, 3, None, None)
    assert sft.missing(get_variant("sft-router")) == "learning_rate.router"
    one = Sft(learning_rate=0.3, epochs=4, batch_size=2)
    assert one.of(get_variant("sft-router")).rate == 0.3
    assert one.missing(get_variant("sft-lora")) == "rank"
    assert one.missing(get_variant("sft-simsmoe")) == "rank"
    for name in ("sft-lora-cka-x2", "sft-simsmoe"):  # as LoRA
        assert (sft.of(get_variant(name)).rate, sft.of(get_variant(name)).rank) == (lora.rate, 8)
    with pytest.raises(ValidationError, match="lora-cka"):
        Sft(learning_rate={"lora-cka": 0.1}, epochs=1, batch_size=1)
    assert one.missing(get_variant("sft-router")) is None
    with pytest.raises(ValueError, match="several learning rates"):
        _ = sft.rate

"""The settings of a trained arm: results of before a recipe had a name are those of LoRA."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.results.training import Training

LORA = {"rank": 8, "lora_alpha": 16.0, "learning_rate": 0.1, "epochs": 2, "batch_size": 4}


def test_earlier_results_are_of_lora():
    found = Training.model_validate(LORA)
    assert (found.recipe, found.tokens, found.expert_count) == ("lora", None, None)


def test_other_recipes_have_no_rank():
    esft = LORA | {"rank": None, "lora_alpha": None, "recipe": "esft", "expert_count": 9}
    assert Training.model_validate(esft).expert_count == 9
    loss = {"weight": 0.01, "threshold": 0.5, "pairs": 0, "steps_above": 0, "first_cka": None,
            "last_cka": None, "mean_loss": 0.0}  # fmt: skip
    found = Training.model_validate(LORA | {"recipe": "lora-cka", "similarity": loss})
    assert found.similarity.first_cka is None
    with pytest.raises(ValidationError):
        Training.model_validate(LORA | {"recipe": "adapters"})

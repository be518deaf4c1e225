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
    with pytest.raises(ValidationError):
        Training.model_validate(LORA | {"recipe": "adapters"})

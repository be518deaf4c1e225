"""The size of a model, from its configuration alone."""

import pytest

from dsmoe_eval.models import load_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.models.sizes import count_parameters, measure_model
from dsmoe_eval.registry import load_model_card


def test_parameters_are_counted_without_weights():
    found = load_model("lab-poly", "cpu").model.parameters()
    assert count_parameters("lab-poly") == sum(parameter.numel() for parameter in found)


def test_parameters_of_a_model_without_code_are_not_known(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nobody-has-this"}')
    assert count_parameters(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "qwen3-30b-a3b-instruct-2507"])
def test_case_19_a_configuration_alone_gives_the_cards_size(name, tmp_path):
    card = load_model_card(name)
    card_config(card).save_pretrained(tmp_path)
    assert measure_model(str(tmp_path)).active_parameters == card.parameters.active

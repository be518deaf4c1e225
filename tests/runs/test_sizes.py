"""What a model takes in memory, before it is loaded."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_model_card, load_plan
from dsmoe_eval.runs.sizes import model_size, size_of


@pytest.fixture
def plan():
    return load_plan("lab")[0]


def test_a_card_gives_the_size_by_engine(plan):
    card, size = load_model_card("gpt-oss-20b"), model_size("gpt-oss-20b", plan)
    assert size.weights_gib == size.memory_gib["vllm"] == card.weights_gib
    assert size.memory_gib["transformers"] == card.parameters.total * 2 / 2**30
    assert (size.active_parameters, size.thinking) == (card.parameters.active, 32768)
    assert model_size("gpt-oss-20b", plan, limit=8).thinking == 16  # as answers of a smoke test
    wide = plan.model_copy(update={"dtype": "float32"})
    size = model_size("olmoe-1b-7b", wide)
    assert size.memory_gib["vllm"] == pytest.approx(2 * load_model_card("olmoe-1b-7b").weights_gib)
    assert size.thinking == 0


def test_a_folder_gives_the_size_of_its_files(plan):
    size = model_size("lab-poly", plan)
    assert set(size.memory_gib.values()) == {size.weights_gib} == {5857704 / 2**30}
    assert size.active_parameters == size_of("lab-poly", plan).active_parameters


def test_of_a_model_of_the_hub_nothing_is_known(plan):
    assert model_size("organisation/unknown", plan) is None
    with pytest.raises(UserError, match="nosuch"):
        model_size("nosuch", plan)

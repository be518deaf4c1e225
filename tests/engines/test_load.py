"""A model is loaded into the engine that is named; what vLLM is started with is in `test_base`."""

import pytest

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError


def test_transformers_is_the_engine_that_is_not_named():
    engine = load_engine("lab-poly", device="cpu", batch_tokens=64)
    assert (engine.name, engine.device, engine.batch_tokens) == ("transformers", "cpu", 64)
    assert engine.identity == load_engine("lab-poly", "transformers", "cpu").identity


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_model_that_is_not_there_is_refused_by_each(engine):
    with pytest.raises(UserError, match="no-such-model"):
        load_engine("no-such-model", engine)

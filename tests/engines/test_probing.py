"""Probing a model with no suite in sight."""

import pytest

from dsmoe_eval.engines import load_model, probe_model
from dsmoe_eval.steering import SteeringError


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


def test_the_embedded_model_passes(loaded):
    report = probe_model(loaded)
    assert report.null_max_difference == 0.0
    assert report.selection_changed > 0
    assert report.active_experts == loaded.model.config.num_experts_per_tok


def test_a_profile_of_another_model_is_refused(loaded, make_profile):
    from ..conftest import make_model

    with pytest.raises(SteeringError, match="Identify the experts of this model instead"):
        probe_model(loaded, make_profile(make_model("qwen3_moe"), [(0, 3)]))

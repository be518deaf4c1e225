"""Probing a model with no suite in sight."""

import pytest
import torch

from dsmoe_eval.models import load_model, probe_model
from dsmoe_eval.models.loading import identify_model
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.steering import SteeringError, find_routers, hidden_size

from ..conftest import vector_profile


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


def test_the_embedded_model_passes(loaded):
    report = probe_model(loaded.model, loaded.identity)
    assert report.passed
    assert report.layers == (0, 1, 2, 3)
    assert str(report.scoring) == "softmax, renormalised"
    rows = {row.name: row.figures for row in report.interventions}
    assert set(rows) == {"reweight", "bias", "amplify", "force", "mask"}
    assert all(figures.null_max_difference == 0.0 for figures in rows.values())
    assert rows["bias"].selection_changed > 0
    assert rows["mask"].active_experts == loaded.model.config.num_experts_per_tok


def test_a_profile_of_another_model_is_refused(loaded, make_profile):
    from ..conftest import make_model

    with pytest.raises(SteeringError, match="Identify the experts of this model instead"):
        probe_model(loaded.model, loaded.identity, make_profile(make_model("qwen3_moe"), [(0, 3)]))


def test_a_profile_of_vectors_is_probed(loaded):
    vectors = {1: (0.5,) * loaded.model.config.hidden_size}
    report = probe_model(loaded.model, loaded.identity, vector_profile(loaded.identity, vectors))
    assert report.passed
    assert [row.name for row in report.interventions] == ["residual"]
    assert report.interventions[0].figures.logit_max_change > 0


# Outside the ten, from transformers' default configurations; no line of ours names them.
@pytest.mark.parametrize(
    "architecture",
    [
        "mixtral", "deepseek_v3", "glm4_moe", "granitemoe", "minimax_m2", "qwen3_5_moe",
        "flex_olmo", "hy_v3", "aria_text",
    ],
)  # fmt: skip
def test_architectures_that_nobody_prepared_for(architecture):
    model, identity = build(architecture)
    report = probe_model(model, identity)
    assert report.passed, report
    assert len(report.interventions) >= 5
    vectors = {0: (0.5, -0.25) * (hidden_size(model) // 2)}
    assert probe_model(model, identity, vector_profile(identity, vectors)).passed


def build(architecture):
    from transformers import AutoConfig

    model = miniature(AutoConfig.for_model(architecture))
    return model, identify_model(architecture, "random", model)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("zaya", "gives 17 logits for 16 experts"),
        ("llama", "has no router"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_a_sentence(architecture, reason):
    with pytest.raises(SteeringError, match=reason):
        probe_model(*build(architecture))


def test_a_dead_router_fails_the_probe(loaded, monkeypatch):
    """A block that never calls its router, as fused kernels do."""
    router = find_routers(loaded.model)[1]
    block = loaded.model.get_submodule(router.name.rpartition(".")[0])

    def fused(hidden):
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = torch.nn.functional.linear(flat, router.module.weight)
        weights, indices = logits.softmax(-1).topk(router.top_k)
        return block.experts(flat, indices, weights).reshape(hidden.shape)

    monkeypatch.setattr(block, "forward", fused)
    report = probe_model(loaded.model, loaded.identity)
    assert not report.passed
    assert all("did not receive" in row.failed for row in report.interventions)

"""The benchmark of single edits finds the edits that it times, and times each of their calls."""

from pathlib import Path

import pytest
import torch

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def edits(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import edits

    return edits


def model_of(edits, divides):
    (config,) = [config for config, _ in edits.subjects(()) if config.norm_topk_prob == divides]
    config.num_hidden_layers = 2
    return edits.build(config, "small", "cpu")[1]


@pytest.mark.parametrize("divides", [True, False])
def test_each_layer_calls_the_edit_once_in_a_step(edits, divides):
    model = model_of(edits, divides)
    bench = edits.Transformers(model, "cpu", edits.PROMPT)
    for name, (kind, change) in edits.ways(divides).items():
        if name == "reweight, one kernel":
            continue  # compiling takes long; below
        clock = edits.Clock(change)
        with torch.inference_mode(), edits.steered(model, kind, clock):
            bench.step()
            clock.seconds.clear()
            bench.step()
        assert len(clock.seconds) == 2
        assert clock.given[0].shape == clock.given[1].shape == (1, model.config.num_experts_per_tok)


@pytest.mark.full
def test_all_ways_have_a_row(edits, monkeypatch):
    monkeypatch.setattr(edits, "CALLS", 10)
    with torch.inference_mode():
        rows = list(edits.measure(model_of(edits, False), False, "cpu", 2))
    names = ["base", *edits.ways(False)]
    assert [row.strip().split("  ")[0] for row in rows] == names
    assert all(float(row.split()[-1]) > 0 for row in rows)

"""The estimated memory against counted bytes of live tensors; layers that are computed again."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dsmoe_eval.experts.batching import frozen
from dsmoe_eval.experts.influence import Form, Influence, ScoredText
from dsmoe_eval.experts.memory import ROOM, checkpoint_layers, checkpointed, pass_memory
from dsmoe_eval.experts.saliency import Saliency
from dsmoe_eval.models.architecture import weightless
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import capture_routing, find_routers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "speed"))
from live_bytes import peak_bytes

SIZES = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3, "num_experts_per_tok": 4}
SHAPES = {
    "olmoe": {"num_experts": 8, "intermediate_size": 32, "num_attention_heads": 4},
    "qwen3_moe": {
        "num_experts": 8, "moe_intermediate_size": 24, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
    },
    "gpt_oss": {
        "num_local_experts": 8, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    },
}  # fmt: skip


def build(kind, **changes):
    torch.manual_seed(0)
    ends = {"eos_token_id": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **SIZES, **SHAPES[kind], **ends, **changes)
    return AutoModelForCausalLM.from_config(config).eval()


def counted(model, tokens, again):
    """Count the peak of one text's pass with routing, which `observe` makes."""
    ids = torch.randint(2, 256, (1, tokens))
    with frozen(model):
        salient = Saliency(model)
        layers = checkpointed(checkpoint_layers(model)) if again else nullcontext()
        with capture_routing(find_routers(model)), layers:
            return peak_bytes(lambda: salient(ids, torch.ones_like(ids)))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
def test_the_estimate_agrees_with_counted_bytes(kind, again):
    model, (few, many) = build(kind), (256, 1024)
    memory = pass_memory(model, 2**20)
    estimate = memory.checkpointed if again else memory.plain
    a_token = (counted(model, many, again) - counted(model, few, again)) / (many - few)
    expected = (estimate(many, many) - estimate(few, few)) / (many - few)
    assert expected == pytest.approx(a_token, rel=0.1)


@pytest.mark.parametrize("again", [False, True])
def test_influence_needs_hardly_more_than_saliency(again, monkeypatch):
    """By token; what the routing-exact form computes in pieces is a constant beside it."""
    monkeypatch.setattr("dsmoe_eval.experts.rerouting._VALUES_AT_ONCE", 2**12)
    model, (few, many) = build("qwen3_moe"), (256, 1024)

    def peak(tokens, form):
        text = ScoredText(tuple(torch.randint(2, 256, (tokens,)).tolist()), 1)
        with frozen(model):
            influence = Influence(model, form)
            influence._room = 0 if again else ROOM
            return peak_bytes(lambda: influence([text]))

    saliency = counted(model, many, again) - counted(model, few, again)
    for form in (Form(), Form(steps=(0.5,) * 3)):
        assert peak(many, form) - peak(few, form) <= 1.15 * saliency


@pytest.mark.parametrize("kind", SHAPES)
def test_layers_that_are_computed_again_change_no_saliency_and_no_routing(kind, monkeypatch):
    model, ids = build(kind), torch.randint(2, 256, (2, 20))
    before = [vars(layer).get("forward") for layer in checkpoint_layers(model)]
    found = []
    for room in (ROOM, 0):
        monkeypatch.setattr("dsmoe_eval.experts.backward.free_bytes", lambda _, r=room: r)
        with frozen(model), capture_routing(find_routers(model)) as routing:
            found.append((Saliency(model)(ids, torch.ones_like(ids)), routing.indices()))
    torch.testing.assert_close(found[0], found[1])
    assert [vars(layer).get("forward") for layer in checkpoint_layers(model)] == before


def test_a_batch_is_as_large_as_fits_and_qwen3_fits_in_twelve_gigabytes():
    config = card_config(load_model_card("qwen3-30b-a3b-instruct-2507"))
    config.dtype = torch.bfloat16
    memory = pass_memory(weightless(config).to(torch.bfloat16), 2**26)
    budget = memory.budget(ROOM, 16384, 500)
    assert 1024 <= budget <= 4096
    assert memory.plain(budget, 500) <= ROOM < memory.plain(2 * budget, 500)
    assert memory.checkpointed(16384, 16384) <= ROOM


@pytest.mark.full
@pytest.mark.parametrize("name", builtin_names("models"))
def test_every_card_can_be_projected(name):
    card = load_model_card(name)
    if card.transformers:
        memory = pass_memory(weightless(card_config(card)).to(torch.bfloat16), 2**26)
        assert 0 < memory.checkpointed(1024, 1024) < memory.plain(1024, 1024)


def test_a_model_whose_layers_are_unknown_has_no_estimate():
    assert pass_memory(torch.nn.Linear(2, 2), 1) is None


@pytest.mark.gpu
def test_the_allocators_peak_agrees_with_the_estimate():
    wide = {"hidden_size": 512, "num_hidden_layers": 4, "moe_intermediate_size": 256}
    config = AutoConfig.for_model("qwen3_moe", **(SIZES | SHAPES["qwen3_moe"] | wide))
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    ids, peaks = torch.randint(2, 256, (1, 8192), device="cuda"), []
    with frozen(model):
        salient = Saliency(model)
        for tokens in (1024, 2048, 8192):  # the first one warms up
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            salient(ids[:, :tokens], torch.ones_like(ids[:, :tokens]))
            peaks.append(torch.cuda.max_memory_allocated() - before)
    memory = pass_memory(model, 0)
    expected = memory.plain(8192, 8192) - memory.plain(2048, 2048)
    assert peaks[2] - peaks[1] == pytest.approx(expected, rel=0.15)

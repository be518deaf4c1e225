"""Model cards against the models that they speak of: built on no device, and counted.

Routers and experts are read from the built modules, not from the config; how a router scores is
compared with NumPy on a small instance of the real class.
"""

import functools
import re
from decimal import Decimal
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dsmoe_eval.cards import ModelCard, RoutingRule
from dsmoe_eval.registry import builtin_names, load_model_card

CARDS = {name: load_model_card(name) for name in builtin_names("models")}
BUILT = [card for card in CARDS.values() if card.transformers]
EMBEDDINGS = {"nothing": 0, "input embedding": 1, "both embeddings": 2}
FUNCTIONS = {*get_args(RoutingRule.model_fields["function"].annotation)} - {"other"}
HIDDEN, TOKENS = 240, 2000

# Counts that are not what the vendor prints, and by how much; the cards say so in words.
OFF = {
    ("phi-tiny-moe-instruct", "total"): -0.0118,
    ("phi-tiny-moe-instruct", "active"): 0.0524,
    ("qwen3-30b-a3b-instruct-2507", "active"): 0.0161,
    ("qwen3-30b-a3b-thinking-2507", "active"): 0.0161,
    ("emo-1b14b-1t", "total"): -0.0308,
    ("stdmoe-1b14b-1t", "total"): -0.0308,
}


def each(cards):
    return pytest.mark.parametrize("card", cards, ids=lambda card: card.name)


@functools.cache
def build(name):
    """The whole model, on no device."""
    card = CARDS[name]
    config = AutoConfig.for_model(card.architecture, **card.config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def moe_blocks(model):
    """Layer -> (block, its router), found by the names of classes."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Router"):
            layer = int(re.search(r"\.layers\.(\d+)\.", name).group(1))
            assert layer not in found
            found[layer] = (model.get_submodule(name.rpartition(".")[0]), module)
    return found


def count(modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_ten_models_of_the_paper_and_the_twins_have_cards():
    assert len(CARDS) == 12
    steered = {card.hub_id for card in CARDS.values() if card.steered_in_paper}
    assert steered == {
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "Qwen/Qwen3-30B-A3B-Thinking-2507",
    }


@each(CARDS.values())
def test_transformers_has_the_code_where_the_card_says_so(card):
    assert (card.architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == card.transformers
    if card.transformers:
        assert type(build(card.name)).__name__.lower() == card.class_name.lower()


@each(BUILT)
def test_the_config_has_no_key_that_transformers_would_not_read(card):
    """A misspelt key would be kept as an attribute that nothing reads."""
    bare = AutoConfig.for_model(card.architecture)
    known = {*bare.to_dict(), *type(bare).attribute_map}
    # Read by models that have no such field, or turned into others.
    known |= {"head_dim", "full_attention_interval"}
    known |= {"rope_theta", "rope_scaling", "partial_rotary_factor"}
    assert set(card.config) <= known
    rope = build(card.name).config.rope_parameters
    assert rope["rope_theta"] == card.config["rope_theta"]
    assert rope["rope_type"] == card.config.get("rope_scaling", {}).get("rope_type", "default")
    assert rope.get("partial_rotary_factor") == card.config.get("partial_rotary_factor")


@each(BUILT)
def test_parameters_are_those_of_the_built_model(card):
    model = build(card.name)
    assert count([model]) == card.parameters.total
    experts = [block.experts for block, _ in moe_blocks(model).values()]
    routed = count(experts)
    assert routed == card.routed_parameters
    idle = routed // card.experts * (card.experts - card.top_k)
    assert card.parameters.total - idle == card.parameters.active


@each(CARDS.values())
def test_parameters_are_those_published_or_the_card_says_by_how_much_not(card):
    """The total within 1 %; the active ones, often printed with one digit, to those digits."""
    published = card.parameters.published
    embedding = card.config["vocab_size"] * card.config["hidden_size"]
    total = Decimal(card.parameters.total) / 10**9
    active = card.parameters.active - EMBEDDINGS[published.active_without] * embedding
    active = Decimal(active) / 10**9
    printed_total, printed_active = (
        Decimal(text.removesuffix("B")) for text in (published.total, published.active)
    )
    off = {
        "total": total / printed_total - 1,
        "active": active / printed_active - 1,
    }
    agrees = {
        "total": abs(off["total"]) <= Decimal("0.01"),
        "active": active.quantize(printed_active) == printed_active,
    }
    for which, agreed in agrees.items():
        expected = OFF.get((card.name, which))
        assert agreed == (expected is None), (which, off[which])
        if expected is not None:
            assert float(off[which]) == pytest.approx(expected, abs=5e-5)
            assert published.discrepancy


@each(BUILT)
def test_layers_experts_and_biases_are_those_of_the_built_modules(card):
    model = build(card.name)
    blocks = moe_blocks(model)
    assert len(model.model.layers) == card.layers
    assert tuple(sorted(blocks)) == card.moe_layers
    for block, router in blocks.values():
        assert {p.shape[0] for p in block.experts.parameters()} == {card.experts}
        assert router.weight.shape[0] == card.experts
        assert (getattr(router, "bias", None) is not None) == card.routing.native_bias
        assert bool(correction_of(router)) == card.routing.correction_bias
        assert not hasattr(router, "n_group")
        assert card.routing.groups == 1
        assert shared_width(block) == card.shared_experts * block.experts.down_proj.shape[-1]


def shared_width(block):
    """Width of the MLP that every token passes beside the routed experts."""
    downs = [
        parameter
        for name, parameter in block.named_parameters()
        if re.fullmatch(r"shared_experts?\.down_proj\.weight", name)
    ]
    return sum(down.shape[1] for down in downs)


def correction_of(router):
    tensors = [*router.named_parameters(), *router.named_buffers()]
    return [tensor for name, tensor in tensors if name.endswith("correction_bias")]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sparsemix(logits, jitter):
    """GRIN's routing at inference (arXiv:2409.12136): each pick weighed among those close to it."""
    weights, left = np.zeros_like(logits), logits.copy()
    rows = np.arange(len(logits))
    for _ in range(2):
        best = left.max(axis=-1, keepdims=True)
        close = (best - logits) / np.maximum(np.abs(logits), best) <= 2 * jitter
        among = softmax(np.where(close, left, -np.inf))
        pick = left.argmax(axis=-1)
        weights[rows, pick] = among[rows, pick]
        left[rows, pick] = -np.inf
    return weights


def reference(logits, correction, routing, top_k, jitter):
    """The rule that a card declares: [T, E] of weights, zero where an expert is not selected."""
    if routing.function == "sparsemixer":
        dense = sparsemix(logits, jitter)
    else:
        scores = {"softmax": softmax, "sigmoid": sigmoid, "softmax-topk": lambda x: x}[
            routing.function
        ](logits)
        choice = scores + correction if routing.correction_bias else scores
        kept = np.argsort(-choice, axis=-1)[:, :top_k]
        weights = np.take_along_axis(scores, kept, axis=-1)
        dense = np.zeros_like(logits)
        weights = softmax(weights) if routing.function == "softmax-topk" else weights
        np.put_along_axis(dense, kept, weights, axis=-1)
    return dense / dense.sum(axis=-1, keepdims=True) if routing.renormalised else dense


def run_small_router(card):
    """The real router class, of fewer inputs: (logits, dense weights, correction, top-k)."""
    _, router = next(iter(moe_blocks(build(card.name)).values()))
    config = AutoConfig.for_model(card.architecture, **{**card.config, "hidden_size": HIDDEN})
    torch.manual_seed(0)
    small = type(router)(config).eval()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.1)
        logits, weights, indices = small(torch.randn(TOKENS, HIDDEN))
    dense = torch.zeros_like(logits).scatter_(1, indices, weights).double().numpy()
    found = correction_of(small)
    correction = found[0].detach().double().reshape(-1).numpy() if found else 0.0
    return logits.double().numpy(), dense, correction, indices.shape[-1]


# Two ways to say one rule: softmax over the selected, or over all and then divided by the sum.
SAME = {("softmax-topk", False), ("softmax-topk", True), ("softmax", True)}


@each(BUILT)
def test_the_real_router_scores_as_the_card_says_and_not_otherwise(card):
    logits, dense, correction, top_k = run_small_router(card)
    assert logits.shape == (TOKENS, card.experts)
    assert top_k == card.top_k
    said, jitter = card.routing, card.config.get("router_jitter_noise", 0.01)

    def difference(routing):
        return np.abs(dense - reference(logits, correction, routing, top_k, jitter)).max()

    assert difference(said) < 1e-5
    changes = [{"function": function} for function in FUNCTIONS if function != said.function]
    changes.append({"renormalised": not said.renormalised})
    changes += [{"correction_bias": False}] if said.correction_bias else []
    for change in changes:
        other = said.model_copy(update=change)
        both = {(one.function, one.renormalised) for one in (said, other)}
        if said.correction_bias or not both <= SAME:
            assert difference(other) > 1e-3, change


def test_sparsemixer_was_seen_to_weigh_close_logits():
    """Else the comparison would hold for weights that are all one."""
    _, dense, _, _ = run_small_router(CARDS["phi-tiny-moe-instruct"])
    chosen = dense[dense > 0]
    assert chosen.size == 2 * TOKENS
    assert (chosen < 0.9).mean() > 0.05


def test_deepseek_by_closed_form():
    """Llama's attention, one dense layer, 27 of 64 experts and 2 shared, an untied head."""
    card = CARDS["deepseek-moe-16b-base"]
    config = card.config
    hidden, expert = config["hidden_size"], 3 * config["hidden_size"] * 1408
    assert config["num_key_value_heads"] == config["num_attention_heads"]
    outside = 2 * config["vocab_size"] * hidden + hidden
    every_layer = 4 * hidden * hidden + 2 * hidden
    dense = 3 * hidden * 10944
    fixed = outside + 28 * every_layer + dense + 27 * (2 * expert + 64 * hidden)
    assert fixed + 27 * 64 * expert == card.parameters.total
    assert fixed + 27 * 6 * expert == card.parameters.active
    assert card.routed_parameters == 27 * 64 * expert
    assert card.moe_layers == tuple(range(1, 28))
    assert (config["n_routed_experts"], config["num_experts_per_tok"]) == (card.experts, card.top_k)
    assert config["n_shared_experts"] == card.shared_experts
    assert (config["scoring_func"], config["norm_topk_prob"]) == ("softmax", False)
    assert (card.routing.function, card.routing.renormalised) == ("softmax", False)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # Bytes of the published tensors.
        ("gpt-oss-20b", 13_761_264_768),
        ("gpt-oss-120b", 65_248_815_744),
        # Sizes of the files that the hub shows, to 10 MB each.
        ("phi-tiny-moe-instruct", 5e9 + 2.51e9),
        ("deepseek-moe-16b-base", 6 * 5e9 + 2.77e9),
    ],
)
def test_the_size_of_published_weights(name, size):
    assert CARDS[name].weights_gib == pytest.approx(size / 2**30, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {}}, "no num_hidden_layers"),
        ({"dense_layers": [99]}, "dense_layers must be some"),
        ({"dense_layers": list(range(16))}, "dense_layers must be some"),
        ({"top_k": 64}, "not below"),
        ({"experts": 63}, "not divisible"),
        ({"format": "reasoning"}, "think_end_token"),
        ({"think_end_token": "</think>"}, "think_end_token"),
        ({"hub_id": "olmoe"}, "hub_id"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes, words):
    content = CARDS["olmoe-1b-7b"].model_dump() | changes
    with pytest.raises(ValueError, match=words):
        ModelCard.model_validate(content)

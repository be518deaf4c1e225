"""Single experts, against their weights by hand, one token at a time; and what is refused."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts import check_outputs, record_tokens, sample_tokens
from dsmoe_eval.experts.outputs import random_experts
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import SteeringError, find_routers

from ..conftest import EXPERTS, make_model

TEXTS = [[5, 9, 2, 33, 7, 8, 21], [5, 9, 40], [11, 3, 3, 60, 12]]
PLACES = ((0, 1), (0, 6), (1, 2), (2, 0), (2, 3))


# ---- which tokens ----


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=6), st.data())
def test_tokens_are_distinct_and_evenly_spread(texts, data):
    prefixes = {tuple(text[: p + 1]) for text in texts for p in range(len(text))}
    count = data.draw(st.integers(0, len(prefixes)))
    places = sample_tokens(texts, count, seed=data.draw(st.integers(0, 9)))
    assert len(places) == count
    assert len({tuple(texts[t][: p + 1]) for t, p in places}) == count
    first = {}  # the text that has a prefix first
    for t, text in enumerate(texts):
        for p in range(len(text)):
            first.setdefault(tuple(text[: p + 1]), t)
    there, drawn = Counter(first.values()), Counter(t for t, _ in places)
    most = max(drawn.values(), default=0)
    assert all(drawn[t] >= min(most - 1, there[t]) for t in there)


def test_the_draw_depends_on_the_seed_alone():
    texts = [list(range(k, k + 30)) for k in range(10)]
    assert sample_tokens(texts, 20, 1) == sample_tokens(texts, 20, 1)
    assert sample_tokens(texts, 20, 1) != sample_tokens(texts, 20, 2)


def test_too_little_text():
    with pytest.raises(ValueError, match="have 4 distinct tokens, but 5 are needed"):
        sample_tokens([[1, 2, 3], [1, 2, 4], [1, 2, 3]], 5, 0)


# ---- what reaches the experts, and what one of them makes of it ----


def by_hand(experts, expert, hidden):
    """One expert on one token, from its weight matrices."""
    with torch.no_grad():
        if type(experts).__name__ == "GptOssExperts":
            both = hidden @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
            gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
            inner = (up + 1) * gate / (1 + torch.exp(-1.702 * gate))
            return inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]
        both = experts.gate_up_proj[expert] @ hidden
        gate, up = both[: len(both) // 2], both[len(both) // 2 :]
        return experts.down_proj[expert] @ (gate / (1 + torch.exp(-gate)) * up)


def give_biases(model):
    """Random-init leaves biases at zero, where a wrong one would not show."""
    torch.manual_seed(2)
    for router in find_routers(model):
        for name, parameter in router.consumer.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)


def alone(model, router, text):
    """The experts' input and output for one whole text, not padded."""
    seen = {}

    def keep(_module, args, output):
        seen.update(hidden=args[0], output=output)

    handle = router.consumer.register_forward_hook(keep)
    with torch.no_grad():
        model(input_ids=torch.tensor([text]), use_cache=False)
    handle.remove()
    return seen


def test_each_expert_gives_what_its_weights_give(model):
    """For all seven classes of experts, whatever the batch and its padding."""
    give_biases(model)
    recorded = record_tokens(model, TEXTS, PLACES)
    assert [tokens.router.layer for tokens in recorded] == [r.layer for r in find_routers(model)]
    orders = []
    for tokens in recorded:
        whole = [alone(model, tokens.router, text) for text in TEXTS]
        hidden = torch.stack([whole[t]["hidden"][p] for t, p in PLACES])
        output = torch.stack([whole[t]["output"][p] for t, p in PLACES])
        # The rows come in an order of their own, the same in every layer.
        order = torch.cdist(tokens.hidden, hidden).argmin(1)
        orders.append(order.tolist())
        assert sorted(orders[0]) == list(range(len(PLACES)))
        assert orders[-1] == orders[0]
        torch.testing.assert_close(tokens.hidden, hidden[order])
        torch.testing.assert_close(tokens.output, output[order])
        for expert in range(EXPERTS):
            expected = torch.stack(
                [by_hand(tokens.router.consumer, expert, row) for row in tokens.hidden]
            )
            torch.testing.assert_close(tokens.run(expert), expected, rtol=1e-4, atol=1e-7)
            some = tokens.run(expert, torch.tensor([3, 1]))
            torch.testing.assert_close(some, expected[[3, 1]], rtol=1e-4, atol=1e-7)
        assert check_outputs(tokens) < 1e-5


# One of each shape; the largest takes 15 seconds.
LARGE = {"qwen3-next-80b-a3b-thinking"}
LIKE_ANOTHER = {"gpt-oss-120b", "qwen3-30b-a3b-thinking-2507"} | {
    "emo-1b14b-1t",  # as qwen1.5-moe-a2.7b
    "stdmoe-1b14b-1t",
}
CARDS = [name for name in builtin_names("models") if load_model_card(name).transformers]
CARDS = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
    for name in CARDS
    if name not in LIKE_ANOTHER
]


@pytest.mark.parametrize("name", CARDS)
def test_the_ten_architectures_in_bfloat16(name):
    model = miniature(card_config(load_model_card(name)), torch.bfloat16)
    texts = [torch.randint(2, 128, (12,)).tolist() for _ in range(8)]
    for tokens in record_tokens(model, texts, sample_tokens(texts, 64, 0)):
        assert 0 < check_outputs(tokens) < 0.01


def test_the_model_stays_as_it_was():
    model = make_model("qwen3_moe").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for tokens in record_tokens(model, TEXTS, PLACES):
        random_experts(tokens, 0)
    assert model.training
    assert all(not router.consumer._forward_hooks for router in find_routers(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_arguments_may_be_named():
    model = make_model("qwen3_moe")
    plain = record_tokens(model, TEXTS, PLACES)
    for router in find_routers(model):
        router.consumer.register_forward_pre_hook(
            lambda _m, args, _kwargs: (
                (
                    args[:1],
                    {"top_k_weights": args[2], "top_k_index": args[1]},
                )
                if len(args) == 3
                else None
            ),
            with_kwargs=True,
        )
    for one, other in zip(plain, record_tokens(model, TEXTS, PLACES), strict=True):
        assert other.roles == (0, "top_k_index", "top_k_weights")
        assert check_outputs(other) < 1e-5
        torch.testing.assert_close(one.run(3), other.run(3))


# ---- what is refused ----


def with_forward(router, forward):
    """Give the experts another forward, as another architecture might have it."""
    original = type(router.consumer).forward
    cls = type("OtherExperts", (type(router.consumer),), {})
    cls.forward = lambda self, *args, **kwargs: forward(
        lambda *a: original(self, *a), *args, **kwargs
    )
    router.consumer.__class__ = cls


@pytest.mark.parametrize(
    "forward",
    [
        lambda original, h, i, w: original(h, i, w) + h,  # something beside the experts
        lambda original, h, i, w: original(h, i, w / w.sum(-1, keepdim=True)),  # renormalises
        lambda original, h, i, w: original(h * w.max(), i, w),  # looks at other tokens
    ],
)
def test_experts_that_do_not_add_up_are_refused(forward):
    model = make_model("olmoe")  # whose weights do not sum to one
    with_forward(find_routers(model)[1], forward)
    first, second, _ = record_tokens(model, TEXTS, PLACES)
    check_outputs(first)
    with pytest.raises(SteeringError, match=r"layer 1: single experts of OtherExperts do not add"):
        check_outputs(second)


def test_experts_that_want_more_are_refused():
    model = make_model("olmoe")
    router = find_routers(model)[1]
    with_forward(router, lambda original, h, i, w, extra: original(h, i, w) + 0 * extra)
    router.consumer.register_forward_pre_hook(
        lambda _module, args, _kwargs: (args, {"extra": args[0]}), with_kwargs=True
    )
    with pytest.raises(SteeringError, match="layer 1: OtherExperts is not called with"):
        record_tokens(model, TEXTS, PLACES)
    assert all(not one.consumer._forward_hooks for one in find_routers(model))


def test_experts_that_are_not_called_are_refused():
    model = make_model("olmoe")
    router = find_routers(model)[2]
    block = next(m for m in model.modules() if getattr(m, "experts", None) is router.consumer)
    block.forward = lambda hidden: hidden
    with pytest.raises(SteeringError, match="no call of the experts was recorded in layer 2"):
        record_tokens(model, TEXTS, PLACES)


def test_mxfp4_experts_are_refused():
    model = make_model("gpt_oss")
    for router in find_routers(model):
        router.consumer.__class__ = type("Mxfp4GptOssExperts", (type(router.consumer),), {})
    with pytest.raises(SteeringError, match=r"layer 0: Mxfp4GptOssExperts .* load the model deq"):
        record_tokens(model, TEXTS, PLACES)


# ---- random experts ----


def test_random_experts_are_as_wide_as_the_trained_ones(model):
    give_biases(model)
    tokens, *_ = record_tokens(model, TEXTS, PLACES)
    for expert, parameter in enumerate(tokens.router.consumer.requires_grad_(False).parameters()):
        parameter[expert] = 3 * parameter[expert] + 1
    drawn = dict(random_experts(tokens, 0).named_parameters())
    for name, trained in tokens.router.consumer.named_parameters():
        for one, other in zip(trained.flatten(1), drawn[name].flatten(1), strict=True):
            error = float(one.std()) / len(one) ** 0.5
            assert float(other.mean() - one.mean()) == pytest.approx(0, abs=5 * error)
            assert float(other.std()) == pytest.approx(float(one.std()), abs=5 * error)
            assert not torch.equal(one, other)
    again = dict(random_experts(tokens, 0).named_parameters())
    assert all(torch.equal(value, again[name]) for name, value in drawn.items())


def test_quantized_experts_are_not_drawn_anew():
    model = make_model("qwen3_moe")
    tokens, *_ = record_tokens(model, TEXTS, PLACES)
    down = tokens.router.consumer.down_proj
    down.requires_grad_(False).data = down.data.to(torch.float8_e4m3fn)
    with pytest.raises(SteeringError, match=r"layer 0: 'down_proj' .*float8_e4m3fn on cpu"):
        random_experts(tokens, 0)

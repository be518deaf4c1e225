"""A model in vLLM starts when it is first used, and must be what was known before; no vLLM here."""

from types import SimpleNamespace

import pytest
import torch

from dsmoe_eval.engines.vllm import later as module
from dsmoe_eval.engines.vllm.facts import VllmFacts
from dsmoe_eval.engines.vllm.later import LaterVllm
from dsmoe_eval.errors import UserError
from dsmoe_eval.steering import ModelIdentity, Sites

FACTS = VllmFacts(
    config=None, dtype=torch.float32, max_length=128, device="cpu", settings={"eager": False},
    version="0", generation={},
)  # fmt: skip
IDENTITY = ModelIdentity(
    name="m",
    fingerprint="f",
    routers="r",
    layers=(0, 1),
    experts=4,
    sites=Sites(kind="neurons"),
)


@pytest.fixture
def starts(monkeypatch):
    """What was started and closed; `starts.other` replaces attributes of the next engine."""
    log = SimpleNamespace(events=[], other={})

    def start(name, dtype, sites, **options):
        assert sites == IDENTITY.sites
        log.events.append(("start", name, dtype, options["max_model_len"]))
        length = min(100, options["max_model_len"] % 1000)
        same = {"dtype": FACTS.dtype, "device": "cpu", "settings": FACTS.settings, "version": "0"}
        identity = IDENTITY.model_copy(update={"name": name, "fingerprint": name.replace("m", "f")})
        own = same | {"generation": {}, "identity": identity, "max_length": length}
        return SimpleNamespace(
            **(own | log.other), close=lambda: log.events.append(("close", name)), score=lambda: 7
        )

    monkeypatch.setattr(module, "SteeredVllm", start)
    return log


def later():
    return LaterVllm(FACTS, IDENTITY, {"max_model_len": -1, "dtype": "float32"})


def test_it_starts_when_it_is_used_and_only_once(starts):
    engine, order = later(), []
    engine.before = lambda: order.append(len(starts.events))
    engine.after = lambda: order.append(engine.max_length)
    assert (engine.dtype, engine.max_length, engine.identity) == (torch.float32, 128, IDENTITY)
    assert not starts.events
    assert not engine.started
    assert engine.score() == engine.score() == 7
    assert starts.events == [("start", "m", "float32", -1)]
    assert order == [0, 100]
    assert engine.started
    engine.close()
    engine.close()
    assert starts.events[1:] == [("close", "m")]


def test_it_starts_again_with_the_same_limit_also_on_other_weights(starts):
    engine = later()
    engine.running()
    with engine.on("merged"):
        engine.running()
        assert engine.identity == IDENTITY
    engine.running()
    names = ["m", "merged", "m"]
    starts_only = [event for event in starts.events if event[0] == "start"]
    limits = [-1, 100, 100]
    assert starts_only == [("start", n, "float32", m) for n, m in zip(names, limits, strict=True)]
    assert [event for event in starts.events if event[0] == "close"] == [
        ("close", "m"), ("close", "merged"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"dtype": torch.bfloat16}, "dtype"),
        ({"settings": {"eager": True}}, "settings"),
        ({"generation": {"top_k": 3}}, "generation config"),
        ({"identity": IDENTITY.model_copy(update={"fingerprint": "g"})}, "weights"),
        ({"identity": IDENTITY.model_copy(update={"routers": "s"})}, "routers"),
    ],
)
def test_another_model_than_the_learners_is_refused_and_closed(starts, other, words):
    starts.other = other
    with pytest.raises(UserError, match=f"vLLM started with other {words} than those of the model"):
        later().running()
    assert starts.events[-1] == ("close", "m")


def test_an_engine_that_cannot_be_used_is_closed(starts):
    engine = later()
    engine.after = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        engine.score()
    assert starts.events[-1] == ("close", "m")
    engine.after = lambda: None
    assert engine.score() == 7


def test_an_eager_pass_shows_the_routing_and_sets_no_limit(starts):
    engine, calls = later(), []
    engine.after = lambda: calls.append(1)
    with engine.eager():
        starts.other = {"settings": {"eager": True}}
        engine.running()
        assert engine.settings == {"eager": True}
    starts.other = {}
    assert (engine.settings, engine.started, calls) == ({"eager": False}, False, [])
    engine.running()
    assert starts.events == [
        ("start", "m", "float32", -1), ("close", "m"), ("start", "m", "float32", -1),
    ]  # fmt: skip
    assert calls == [1]

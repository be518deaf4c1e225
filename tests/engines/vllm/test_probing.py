"""The probes ask an engine in this order, and pass on what its workers found; no vLLM here."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from dsmoe_eval.engines.vllm.probing import probe_engine
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ModelIdentity, ProbeError, Sites, SteeringError

IDENTITY = ModelIdentity(
    name="m", fingerprint="f", routers="r", layers=(0, 1), experts=8, sites=Sites(kind="neurons")
)
PROFILE = trial_profile(IDENTITY, Intervention(kind="amplify", strength=1.0), [1])
PROMPTS = [[1, 2, 3]]


class Engine:
    """An engine whose answer is the strength of its profile, and which selects unit 0 or 1."""

    def __init__(self, eager=True, lasting=0.0, refusal=None, k=1):
        self.eager, self.calls, self._lasting, self._refusal = eager, [], lasting, refusal
        self._strength, self._k = 0.0, k

    @contextmanager
    def steer(self, profile):
        self.calls.append(f"steer {profile.intervention.strength:g}")
        self._strength = profile.intervention.strength
        yield
        self._strength = self._lasting

    def forget(self):
        self.calls.append("forget")

    def call(self, method, *_args):
        self.calls.append(method)
        if method == "dsmoe_check_scaled" and self._refusal:
            raise SteeringError(self._refusal)

    def log_probabilities(self, _prompts):
        self.calls.append("ask")
        return torch.full((1, 4), self._strength)

    def routing(self, prompts):
        units = list(range(self._k if self._strength else 1))
        units[0] = 5 if self._strength else 4
        return [SimpleNamespace(experts=torch.tensor([[units] * 2] * len(prompts[0])))]


def test_the_first_steered_layer_is_kept_without_and_with_the_profile():
    engine = Engine()
    report = probe_engine(engine, PROFILE, PROMPTS, must_act=True)
    assert (report.selection_changed, report.logit_max_change) == (1.0, 1.0)
    assert (report.active_experts, report.tokens) == (1, 3)
    kept = ["forget", "dsmoe_keep", "ask", "dsmoe_kept"]
    plain = ["forget", "ask"]
    assert engine.calls == [
        *kept, "steer 0", *plain, "steer 1", *kept, *plain, "dsmoe_check_scaled"
    ]  # fmt: skip


def test_compiled_models_and_experts_show_no_neurons():
    engine = Engine(eager=False)
    report = probe_engine(engine, PROFILE, PROMPTS, must_act=True)
    assert (report.selection_changed, report.active_experts) == (None, None)
    assert "dsmoe_keep" not in engine.calls
    experts = IDENTITY.model_copy(update={"sites": Sites()})
    engine = Engine()
    probe_engine(engine, PROFILE.model_copy(update={"model": experts}), PROMPTS, must_act=True)
    assert "dsmoe_keep" not in engine.calls


@pytest.mark.parametrize(
    ("engine", "word"),
    [
        (Engine(refusal="neurons changed that were not chosen"), "that were not chosen"),
        (Engine(lasting=0.5), "null probe failed"),
        (Engine(k=2), "2 experts run for a token where 1 did before"),
    ],
)
def test_faults_are_probe_errors(engine, word):
    with pytest.raises(ProbeError, match=word):
        probe_engine(engine, PROFILE, PROMPTS, must_act=True)


def test_a_silent_no_op_is_a_probe_error():
    null = trial_profile(IDENTITY, Intervention(kind="amplify", strength=1.0), [1])
    engine = Engine()
    engine.log_probabilities = lambda _prompts: torch.zeros(1, 4)
    with pytest.raises(ProbeError, match="silent no-op"):
        probe_engine(engine, null, PROMPTS, must_act=True)
    assert probe_engine(engine, null, PROMPTS, must_act=False).logit_max_change == 0.0

"""Neurons steered in vLLM against transformers, with hooks of its own on the down projections."""

import os
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import torch
from torch import nn
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

from dsmoe_eval.engines.vllm import SteeredVllm
from dsmoe_eval.engines.vllm.engine import VllmEngine
from dsmoe_eval.engines.vllm.neurons import find_down_projections, scale_neurons
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import bake
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, Sites, SteeringError, find_sites, sites_hash

from ...conftest import vector_profile
from ...dense import HIDDEN, LAYERS, NEURONS, WIDTH, columns, down, saved_dense

pytestmark = pytest.mark.vllm

TOLERANCE, ROUNDING = 1e-5, 1e-5
GENERATOR = torch.Generator().manual_seed(1)
PROMPTS = [torch.randint(2, 256, (length,), generator=GENERATOR).tolist() for length in (5, 17, 40)]
KINDS = {"reweight": 0.5, "amplify": 3.0, "mask": 1.0}
UNITS = range(6)


def start(folder, sites=NEURONS, **options):
    settings = {
        "enforce_eager": True, "max_model_len": 128, "block_size": 32,
        "distributed_executor_backend": "uni",
    }  # fmt: skip
    return SteeredVllm(str(folder), "float32", sites, **settings | options)


def profile_of(engine, kind, strength=None, units=UNITS):
    intervention = Intervention(kind=kind, strength=KINDS[kind] if strength is None else strength)
    return trial_profile(engine.identity, intervention, units)


class Reference:
    """transformers' model: what its down projections get is multiplied here, by hand."""

    def __init__(self, architecture, model):
        self.architecture, self.model = architecture, model
        self.seen = {}
        self.hash = sites_hash(find_sites(model, NEURONS))

    def log_probabilities(self, profile=None):
        with ExitStack() as hooks, torch.no_grad():
            for layer in range(LAYERS):
                module = down(self.model, self.architecture, layer)
                hook = module.register_forward_pre_hook(self._multiplied(profile, layer))
                hooks.callback(hook.remove)
            rows = []
            for prompt in PROMPTS:
                logits = self.model(torch.tensor([prompt])).logits[0, -1]
                rows.append(logits.float().log_softmax(-1))
        return torch.stack(rows)

    def _multiplied(self, profile, layer):
        def hook(_module, given):
            neurons = given[0].clone()
            for one in profile.experts if profile else ():
                if one.layer == layer:
                    block = profile.sites.block
                    chosen = slice(one.expert * block, (one.expert + 1) * block)
                    kind, strength = profile.intervention.kind, profile.intervention.strength
                    neurons[..., chosen] *= 0 if kind == "mask" else 1 + strength
            self.seen[layer] = neurons[0]
            return (neurons,)

        return hook


def difference(ours, theirs):
    return float((ours - theirs).abs().max())


def check_kinds(engine, reference, expected):
    base = engine.log_probabilities(PROMPTS)
    found = [difference(base, expected[None])]
    for kind in KINDS:
        with engine.steer(profile_of(engine, kind)):
            found.append(difference(engine.log_probabilities(PROMPTS), expected[kind]))
        assert difference(expected[kind], expected[None]) > 1000 * TOLERANCE
        assert torch.equal(engine.log_probabilities(PROMPTS), base)
        with engine.steer(profile_of(engine, kind, 0.0)):
            assert torch.equal(engine.log_probabilities(PROMPTS), base)
    assert engine.identity.routers == reference.hash
    return max(found)


def expected_of(reference, model):
    """The answers by kind, before vLLM is started: it may patch classes of transformers."""
    identity = SimpleNamespace(identity=model)
    return {
        kind: reference.log_probabilities(kind and profile_of(identity, kind))
        for kind in (None, *KINDS)
    }


def identity_of(reference, sites=NEURONS):
    from dsmoe_eval.models.loading import identify_model

    return identify_model("dense", "0", reference.model, sites)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    reference = Reference("llama", saved_dense("llama", folder))
    expected = expected_of(reference, identity_of(reference))
    engine = start(folder)
    yield engine, reference, expected
    engine.close()


def test_steered_is_the_definition(llama, record_property):
    engine, reference, expected = llama
    found = check_kinds(engine, reference, expected)
    record_property("difference", found)
    assert found < TOLERANCE
    assert engine.identity.layers == tuple(range(LAYERS))
    assert engine.layers[0] == {
        "layer": 0, "experts": WIDTH, "top_k": 3, "monolithic": False, "scoring": None,
    }  # fmt: skip


def test_requests_of_several_profiles_share_a_batch(llama):
    engine, _, expected = llama
    profiles = {kind: profile_of(engine, kind) for kind in KINDS}
    for one in profiles.values():
        engine.load(one)
    pairs = [(at, kind) for at in range(len(PROMPTS)) for kind in expected]
    names = [kind and profiles[kind].id for _, kind in pairs]
    found = engine.log_probabilities([PROMPTS[at] for at, _ in pairs], names)
    rows = torch.stack([expected[kind][at] for at, kind in pairs])
    assert difference(found, rows) < TOLERANCE
    for one in profiles.values():
        engine.drop(one.id)
    assert difference(engine.log_probabilities(PROMPTS), expected[None]) < TOLERANCE


def test_probes_see_neurons_multiplied(llama):
    engine, _, expected = llama
    for kind in KINDS:
        report = engine.probe(profile_of(engine, kind), PROMPTS)
        assert report.null_max_difference == 0.0
        assert report.logit_max_change == pytest.approx(
            difference(expected[kind], expected[None]), abs=1e-4
        )
        assert report.active_experts == 3
        assert report.tokens == sum(map(len, PROMPTS))
        assert report.selection_changed > 0
    assert engine.probe(profile_of(engine, "mask", 0.0), PROMPTS).logit_max_change == 0.0


def test_the_largest_neurons_are_recorded(llama):
    engine, reference, _ = llama
    reference.log_probabilities()
    (found,) = engine.routing(PROMPTS[-1:])
    for layer in range(LAYERS):
        lengths = columns(reference.model, "llama", layer).double().norm(dim=1)
        sizes = reference.seen[layer].double().abs() * lengths
        best = sizes.topk(3)
        assert torch.equal(found.experts[:, layer].sort().values, best.indices.sort().values)
        assert difference(found.weights[:, layer].double(), best.values) < TOLERANCE


def test_a_vector_is_added_to_the_stream_of_a_dense_model(llama):
    engine, reference, expected = llama
    profile = vector_profile(engine.identity, {1: (0.5,) * HIDDEN})
    layer = reference.model.model.layers[1]
    handle = layer.register_forward_hook(
        lambda _module, _given, out: out + 0.5 if torch.is_tensor(out) else (out[0] + 0.5, *out[1:])
    )
    moved = reference.log_probabilities()
    handle.remove()
    with engine.steer(profile):
        found = engine.log_probabilities(PROMPTS)
    strength = profile.intervention.strength
    assert strength == 1.0
    assert difference(found, moved) < TOLERANCE < difference(moved, expected[None])


def test_what_has_no_meaning_is_refused_without_a_trace(llama):
    engine, _, _ = llama
    base = engine.log_probabilities(PROMPTS)
    of_experts = engine.identity.model_copy(update={"sites": Sites()})
    other = engine.identity.model_copy(update={"routers": "0" * 16})
    amplify = Intervention(kind="amplify", strength=1.0)
    refused = {
        "steers experts, and this model has neurons": trial_profile(of_experts, amplify, UNITS),
        "same shape but other weights": trial_profile(other, amplify, UNITS),
        "bias edits the logits of a router": trial_profile(
            engine.identity, Intervention(kind="bias", strength=1.0), UNITS
        ),
    }
    for reason, profile in refused.items():
        with pytest.raises(SteeringError, match=reason):
            engine.steer(profile).__enter__()
        assert torch.equal(engine.log_probabilities(PROMPTS), base)


def test_which_neurons_are_active_is_not_shown(llama, tmp_path):
    engine = VllmEngine(llama[0], None)
    with pytest.raises(UserError, match="lape on neurons needs the transformers engine"):
        engine.observe(
            (), tmp_path, reader=None, contributions=False, activity=True, advance=lambda _: None
        )


@pytest.mark.full
@pytest.mark.parametrize(
    "architecture",
    ["qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "mistral", "phi3", "olmo2"],
)
def test_architectures(architecture, tmp_path, record_property):
    heads = 1  # of width 32: vLLM's attention on CPUs takes no 16
    reference = Reference(architecture, saved_dense(architecture, tmp_path, heads=heads))
    expected = expected_of(reference, identity_of(reference))
    engine = start(tmp_path)
    try:
        found = check_kinds(engine, reference, expected)
    finally:
        engine.close()
    record_property("difference", found)
    assert found < TOLERANCE


@pytest.mark.full
def test_a_compiled_model_with_blocks_is_the_baked_one(tmp_path, record_property):
    sites = Sites(kind="neurons", block=4)
    reference = Reference("llama", saved_dense("llama", tmp_path / "model"))
    profile = trial_profile(
        identity_of(reference, sites), Intervention(kind="amplify", strength=3.0), [0, 3]
    )
    plain, wanted = reference.log_probabilities(), reference.log_probabilities(profile)
    bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    engine = start(tmp_path / "model", sites, enforce_eager=False)
    try:
        base = engine.log_probabilities(PROMPTS)
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
        assert torch.equal(engine.log_probabilities(PROMPTS), base)
        report = engine.probe(profile, PROMPTS)
        with pytest.raises(SteeringError, match="enforce_eager only"):
            engine.routing(PROMPTS)
    finally:
        engine.close()
    assert (report.active_experts, report.null_max_difference) == (None, 0.0)
    engine = start(tmp_path / "baked", sites)
    try:
        baked = engine.log_probabilities(PROMPTS)
    finally:
        engine.close()
    found = [
        difference(base, plain), difference(steered, wanted),
        difference(steered, baked),
    ]  # fmt: skip
    record_property("differences", " ".join(f"{one:.1e}" for one in found))
    assert max(found) < TOLERANCE < 0.1 < difference(wanted, plain)


@pytest.mark.full
@pytest.mark.parametrize("eager", [True, False])
def test_unsteered_is_vllm_to_the_bit(eager, tmp_path, monkeypatch):
    from vllm import LLM
    from vllm.model_executor.custom_op import op_registry_oot

    saved_dense("llama", tmp_path)
    with monkeypatch.context() as patch:
        patch.delitem(op_registry_oot, "RowParallelLinear")
        plain = object.__new__(SteeredVllm)
        plain._llm = LLM(
            model=str(tmp_path), dtype="float32", enforce_eager=eager, max_model_len=128,
            block_size=32, distributed_executor_backend="uni", skip_tokenizer_init=True,
            max_logprobs=-1, seed=0,
        )  # fmt: skip
        expected = plain.log_probabilities(PROMPTS)
        plain.close()
    engine = start(tmp_path, enforce_eager=eager)
    try:
        assert torch.equal(engine.log_probabilities(PROMPTS), expected)
        with engine.steer(profile_of(engine, "amplify")):
            assert difference(engine.log_probabilities(PROMPTS), expected) > 0.1
        assert torch.equal(engine.log_probabilities(PROMPTS), expected)
    finally:
        engine.close()


@pytest.mark.full
def test_two_workers_have_half_of_the_neurons_each(tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    reference = Reference("llama", saved_dense("llama", tmp_path))
    model = identity_of(reference)
    units = [0, 3, WIDTH // 2 + 1, WIDTH - 1]  # of both workers
    profile = trial_profile(model, Intervention(kind="amplify", strength=3.0), units)
    plain, wanted = reference.log_probabilities(), reference.log_probabilities(profile)
    engine = start(tmp_path, tensor_parallel_size=2, distributed_executor_backend="mp")
    try:
        base = engine.log_probabilities(PROMPTS)
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
        assert torch.equal(engine.log_probabilities(PROMPTS), base)
        report = engine.probe(profile, PROMPTS)
        reference.log_probabilities()
        (routed,) = engine.routing(PROMPTS[-1:])
        assert engine.identity.routers == reference.hash
    finally:
        engine.close()
    sizes = reference.seen[0].abs() * columns(reference.model, "llama", 0).norm(dim=1)
    assert torch.equal(routed.experts[:, 0].sort().values, sizes.topk(3).indices.sort().values)
    assert (report.active_experts, report.null_max_difference) == (3, 0.0)
    found = [difference(base, plain), difference(steered, wanted)]
    record_property("differences", " ".join(f"{one:.1e}" for one in found))
    assert max(found) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_token_takes_the_factors_of_its_row(dtype):
    neurons = torch.randn(20, 8, generator=GENERATOR).to(dtype)
    factor = torch.randn(3, 8, generator=GENERATOR).to(dtype)
    factor[0] = 1
    rows = torch.randint(3, (64,), generator=GENERATOR)
    for given in (neurons, neurons[None]):
        found = scale_neurons(given, rows, factor).view(20, 8)
        for token in range(20):
            assert torch.equal(found[token], neurons[token] * factor[rows[token]])
        assert torch.equal(found[rows[:20] == 0], neurons[rows[:20] == 0])


def _linear(kind=RowParallelLinear, method=UnquantizedLinearMethod, **changes):
    module = object.__new__(kind)
    nn.Module.__init__(module)
    sizes = {"input_size": 48, "output_size": 32, "tp_size": 1, "input_is_parallel": True}
    for name, value in (sizes | changes).items():
        setattr(module, name, value)
    module.quant_method = object.__new__(method)
    return module


def _model(**modules):
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict(modules)])
    return model


class _Int8Method:
    """A method of a quantization."""


@pytest.mark.parametrize(
    ("modules", "word"),
    [
        ({}, "with no RowParallelLinear of one width"),
        ({"self_attn": _linear()}, "with no RowParallelLinear of one width"),
        ({"down": _linear(method=_Int8Method)}, "is computed by _Int8Method"),
        ({"down": _linear(tp_size=2, input_is_parallel=False)}, "splits its input"),
        ({"down": _linear()}, "without an edit"),
    ],
)
def test_what_vllm_computes_otherwise_is_refused_by_name(modules, word):
    with pytest.raises(SteeringError, match=word):
        find_down_projections(_model(**modules), 32)
    with pytest.raises(SteeringError, match="bake the profile and serve the new checkpoint"):
        find_down_projections(_model(**modules), 32)

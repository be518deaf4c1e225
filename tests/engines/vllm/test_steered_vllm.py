"""The vLLM engine against transformers: small random models of the real architectures.

Steering is compared with an implementation of its own, below, written from the definitions on
transformers' routers; nothing of `dsmoe_eval.steering` computes in it.
"""

import base64
import gc
import json
import math
import os
import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # an engine in this process starts in seconds
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import torch  # noqa: E402
from safetensors.torch import load  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaMLP  # noqa: E402
from transformers.models.phimoe.modeling_phimoe import sparsemixer  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402

from dsmoe_eval.engines.requests import Request  # noqa: E402
from dsmoe_eval.engines.vllm import SteeredVllm, steered_vllm  # noqa: E402
from dsmoe_eval.engines.vllm.scoring import plan_scoring  # noqa: E402
from dsmoe_eval.errors import UserError  # noqa: E402
from dsmoe_eval.models.probing import trial_profile  # noqa: E402
from dsmoe_eval.steering import (  # noqa: E402
    Intervention,
    Profile,
    SteeringError,
    capture_routing,
    capture_spread,
    find_routers,
    router_hash,
)

pytestmark = pytest.mark.vllm

VOCABULARY, TOLERANCE = 256, 1e-4
# What follows a block of the prefix cache is computed alone, and rounds otherwise on some machines.
ROUNDING = 1e-5
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "intermediate_size": 64,
}  # fmt: skip
GPT_OSS = {
    "num_experts_per_tok": 4, "head_dim": 32, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
# The expert counts and top-k of the real models.
ARCHITECTURES = {
    "qwen3_moe": {
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 32, "head_dim": 32,
        "norm_topk_prob": True,
    },
    "qwen2_moe": {
        "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64, "norm_topk_prob": False,
    },
    "olmoe": {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False},
    "gpt_oss-20b": {"num_local_experts": 32, **GPT_OSS},
    "gpt_oss-120b": {"num_local_experts": 128, **GPT_OSS},
    "ernie4_5_moe": {
        "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2, "num_hidden_layers": 3,
        "moe_intermediate_size": 32, "moe_layer_start_index": 1, "moe_layer_end_index": 2,
        "head_dim": 32,
    },
    # As on the hub; without them vLLM would read memory that nobody wrote.
    "phimoe": {
        "num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": True,
        "lm_head_bias": True,
    },
    "qwen3_next": {
        "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64, "norm_topk_prob": True, "hidden_size": 128,
        "head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "deepseek": {"n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2},
    # Chooses by sigmoid + correction bias, which is where the score channel is.
    "glm4_moe": {
        "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1, "head_dim": 32,
        "moe_intermediate_size": 32, "first_k_dense_replace": 0, "routed_scaling_factor": 1.5,
        "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
    },
}  # fmt: skip
WITHOUT_RENORMALISATION = ("qwen2_moe", "olmoe", "deepseek")
INTERVENTIONS = {
    "bias": Intervention(kind="bias", strength=3.0),
    "reweight": Intervention(kind="reweight", strength=3.0),
    "amplify": Intervention(kind="amplify", strength=1.5),
    "force": Intervention(kind="force", strength=0.5),
    "mask": Intervention(kind="mask", strength=1.0),
    "score": Intervention(kind="bias", strength=0.5, channel="score"),
}
# What the engine has to refuse instead, and why.
REFUSED = {
    ("phimoe", "force"): "force is defined on log_softmax",
    ("glm4_moe", "force"): "force is defined on log_softmax",
    **{(name, "score"): "needs a router that chooses by" for name in ARCHITECTURES},
}
del REFUSED["glm4_moe", "score"]
FOR_ALL_REQUESTS = {("glm4_moe", "mask"), ("glm4_moe", "score"), ("ernie4_5_moe", "mask")}
GENERATOR = torch.Generator().manual_seed(1)
PROMPTS = [
    torch.randint(2, VOCABULARY, (length,), generator=GENERATOR).tolist() for length in (5, 17, 40)
]


class DeepseekRouter(nn.Module):
    """deepseek-moe-16b's own: softmax over all, top-k, weights as they are."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.top_k = config.num_experts_per_tok

    def forward(self, hidden):
        logits = hidden @ self.weight.T
        return logits, *logits.softmax(-1).topk(self.top_k)


class DeepseekMoE(nn.Module):
    """The names of its parameters are those of the checkpoint on the hub."""

    def __init__(self, config):
        super().__init__()
        size, shared = config.moe_intermediate_size, config.n_shared_experts
        self.gate = DeepseekRouter(config)
        self.experts = nn.ModuleList(_mlp(config, size) for _ in range(config.n_routed_experts))
        self.shared_experts = _mlp(config, size * shared)

    def forward(self, hidden):
        flat = hidden.flatten(0, 1)
        _, weights, indices = self.gate(flat)
        mixed = torch.zeros_like(flat)
        for token in range(len(flat)):
            for weight, index in zip(weights[token], indices[token], strict=True):
                mixed[token] += weight * self.experts[index](flat[token])
        return mixed.view_as(hidden) + self.shared_experts(hidden)


def _mlp(config, size):
    return LlamaMLP(LlamaConfig(**{**config.to_dict(), "intermediate_size": size}))


def _deepseek():
    config = LlamaConfig(**COMMON, **ARCHITECTURES["deepseek"], moe_intermediate_size=32)
    config.update(
        {"first_k_dense_replace": 1, "moe_layer_freq": 1, "norm_topk_prob": False,
         "scoring_func": "softmax", "num_hidden_layers": 3}
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers[1:]:
        layer.mlp = DeepseekMoE(config)
    return model


def build(name, folder, **changes):
    """A random model in float32, saved to `folder`."""
    torch.manual_seed(0)
    if name == "deepseek":
        model = _deepseek()
    else:
        options = {**COMMON, **ARCHITECTURES[name], **changes}
        config = AutoConfig.for_model(name.partition("-")[0], **options)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for key, parameter in model.named_parameters():
        if re.search(r"(gate|router)\.weight$", key):
            nn.init.normal_(parameter, std=0.3)
        elif (parameter.ndim > 1 and "conv1d" not in key) or re.search("bias|sinks", key):
            nn.init.normal_(parameter, std=0.1)
        if "e_score_correction_bias" in key:
            nn.init.zeros_(parameter)  # ernie: see test_ernie_with_a_correction_bias_is_refused
    for key, buffer in model.named_buffers():
        if "e_score_correction_bias" in key:
            nn.init.normal_(buffer, std=0.05)
    model.eval().save_pretrained(folder)
    as_on_the_hub = {
        "phimoe": {"architectures": ["PhiMoEForCausalLM"]},
        "deepseek": {"architectures": ["DeepseekForCausalLM"], "model_type": "deepseek",
                     "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"}},
    }  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | as_on_the_hub.get(name, {})))
    return model


class Reference:
    """transformers' model, its routers' rule written out again, with the interventions in it."""

    def __init__(self, name, model):
        self.model, self.name = model, name
        self.routers = {}
        for key, module in model.named_modules():
            if re.search("(TopK|Topk|Deepseek)Router$", type(module).__name__):
                self.routers[int(re.search(r"layers\.(\d+)", key)[1])] = module
        self.routed = {}

    def log_probabilities(self, profile=None):
        with self._steered(profile):
            rows = [self.model(torch.tensor([prompt])).logits[0, -1] for prompt in PROMPTS]
        return torch.stack(rows).float().log_softmax(-1)

    def routing(self, tokens, profile=None):
        """Weights by expert, [tokens, layers, experts], and what follows each token."""
        with self._steered(profile):
            following = self.model(torch.tensor([tokens])).logits[0].argmax(-1)
        dense = [by_expert(*self.routed[layer]) for layer in self.routers]
        return torch.stack(dense, 1), following

    @contextmanager
    def _steered(self, profile):
        chosen = profile.by_layer() if profile else {}
        for layer, router in self.routers.items():
            router.forward = self._forward(layer, router, profile, chosen.get(layer, ()))
        with torch.no_grad():
            yield
        for router in self.routers.values():
            del router.forward

    def _forward(self, layer, router, profile, chosen):
        original, top_k = type(router).forward, router.top_k
        kind = profile.intervention.kind if profile else None
        strength = profile.intervention.strength if profile else 0

        def forward(hidden, *args):
            logits, *_ = original(router, hidden, *args)
            z = logits.flatten(0, -2).clone()
            if kind == "force":
                z = z.log_softmax(-1)
                high, low = z.max(-1).values + strength, z.min(-1).values - strength
            bias = getattr(router, "e_score_correction_bias", torch.zeros(z.shape[-1])).clone()
            for one in chosen:
                if kind == "bias" and profile.intervention.channel == "score":
                    bias[one.expert] += strength
                elif kind == "bias":
                    z[:, one.expert] += {
                        "odds": math.log(1 + strength),
                        "sigma": strength * dict(profile.intervention.sigmas).get(layer, 0),
                        "scores": strength * one.score,
                    }[profile.intervention.unit]
                elif kind == "mask":
                    z[:, one.expert] = bias[one.expert] = -math.inf
                elif kind == "force":
                    z[:, one.expert] = high if one.activate else low
            weights, indices = self._select(z, bias, top_k)
            experts = torch.tensor([one.expert for one in chosen])
            if kind in ("reweight", "amplify"):
                scaled = torch.where(
                    torch.isin(indices, experts), weights * (1 + strength), weights
                )
                ratio = weights.sum(-1) / scaled.sum(-1) if kind == "reweight" else torch.ones(())
                weights = scaled * ratio[..., None]
            self.routed[layer] = weights, indices, z.shape[-1]
            return logits, weights.to(logits.dtype), indices

        return forward

    def _select(self, z, bias, top_k):
        if self.name == "phimoe":
            return sparsemixer(z, 0.01, training=False)
        if self.name == "glm4_moe":
            scores = z.float().sigmoid()
            indices = (scores + bias).topk(top_k).indices
            weights = scores.gather(-1, indices)
            return 1.5 * weights / weights.sum(-1, keepdim=True), indices
        weights, indices = z.float().softmax(-1).topk(top_k)
        if self.name not in WITHOUT_RENORMALISATION:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, indices


def start(folder, **options):
    settings = {
        "dtype": "float32", "enforce_eager": True, "max_model_len": 128, "block_size": 32,
        "distributed_executor_backend": "uni",
    }  # fmt: skip
    return SteeredVllm(str(folder), **settings | options)


def stop(engine):
    engine.close()


def cleanup():
    """In one process, engines follow one another only so."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def profile_of(engine, intervention, per_layer=4, **identity):
    """Experts that many tokens use, so that each layer has something to steer."""
    model = engine.identity.model_copy(update=identity)
    profile = trial_profile(model, intervention, range(1, 1 + per_layer))
    if intervention.kind != "force":
        return profile
    experts = [x.model_copy(update={"activate": x.expert % 2 == 0}) for x in profile.experts]
    return profile.model_copy(update={"experts": tuple(experts)})


def outcome(reference):
    """For docs/models.md."""
    biased = reference.name == "ernie4_5_moe"
    return f"to {TOLERANCE:.0e}".replace("e-0", "e-") + (", zero bias" if biased else "")


def difference(ours, theirs):
    return float((ours - theirs).abs().max())


@pytest.fixture(scope="module", params=[name for name in ARCHITECTURES if name != "qwen3_next"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    reference = Reference(request.param, build(request.param, folder))
    engine = start(folder)
    yield engine, reference
    stop(engine)


def test_base_is_transformers(case, record_property):
    engine, reference = case
    found = difference(engine.log_probabilities(PROMPTS), reference.log_probabilities())
    record_property("difference", found)
    record_property("outcome", outcome(reference))
    assert found < TOLERANCE
    weights = {layer: router.weight for layer, router in reference.routers.items()}
    assert engine.identity.routers == router_hash(weights)
    assert engine.identity.layers == tuple(reference.routers)


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_steered_is_the_definition(case, kind, record_property):
    engine, reference = case
    profile = profile_of(engine, INTERVENTIONS[kind], 2 if reference.name == "phimoe" else 4)
    base = engine.log_probabilities(PROMPTS)
    record_property("outcome", outcome(reference))
    if (reference.name, kind) in REFUSED:
        with pytest.raises(SteeringError, match=REFUSED[reference.name, kind]):
            engine.steer(profile).__enter__()
    else:
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
        expected = reference.log_probabilities(profile)
        record_property("difference", difference(steered, expected))
        assert difference(steered, expected) < TOLERANCE
        assert difference(steered, base) > 100 * TOLERANCE
    assert difference(engine.log_probabilities(PROMPTS), base) < ROUNDING


def loadable(engine, reference):
    """Profiles of all kinds that this model's requests may name, and the refusal of the others."""
    per_layer = 2 if reference.name == "phimoe" else 4
    accepted = []
    for kind, intervention in INTERVENTIONS.items():
        profile = profile_of(engine, intervention, per_layer)
        refusal = REFUSED.get((reference.name, kind))
        if (reference.name, kind) in FOR_ALL_REQUESTS:
            refusal = "correction bias, which is the same for all"
        if refusal is None:
            engine.load(profile)
            accepted.append(profile)
        else:
            with pytest.raises(SteeringError, match=refusal):
                engine.load(profile)
    return accepted


def test_a_mixed_batch_gives_each_request_what_it_gets_alone(case, record_property):
    engine, reference = case
    base = engine.log_probabilities(PROMPTS)
    loaded = loadable(engine, reference)
    names = [None, *(profile.id for profile in loaded)]
    mixed = [(prompt, name) for prompt in PROMPTS for name in names]
    prompts, named = zip(*mixed, strict=True)
    rows = engine.log_probabilities(prompts, named).view(len(PROMPTS), len(names), -1).unbind(1)
    requests = [Request(tuple(prompt), 8) for prompt in prompts]
    texts = [answer.tokens for answer in engine.answer(requests, (), named)]
    again = engine.log_probabilities(prompts, named).view(len(PROMPTS), len(names), -1).unbind(1)
    largest = 0.0
    for place, profile in enumerate([None, *loaded]):
        with engine.steer(profile) if profile else nullcontext():
            alone = engine.log_probabilities(PROMPTS)
            assert texts[place :: len(names)] == [
                tuple(tokens) for tokens in engine.generate(PROMPTS, 8)
            ]
        largest = max(largest, difference(rows[place], alone), difference(again[place], alone))
        assert largest < 1e-5
        # The 40 tokens of the longest prompt fill a block of the prefix cache.
        assert profile is None or difference(rows[place], rows[0]) > 1e-3
    record_property("difference", largest)
    for profile in loaded:
        engine.drop(profile.id)
    with pytest.raises(SteeringError, match="is not loaded"):
        engine.drop(loaded[0].id)
    with pytest.raises(VLLMValidationError, match="is not loaded; loaded are: none"):
        engine.log_probabilities(PROMPTS[:1], [loaded[0].id])
    assert difference(engine.log_probabilities(PROMPTS), base) < ROUNDING


def vectors_of(engine, layers, strength):
    """Random vectors after some layers, whether these have experts or not."""
    width = engine.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(3)
    given = {i: tuple((0.3 * torch.randn(width, generator=generator)).tolist()) for i in layers}
    profile = profile_of(engine, INTERVENTIONS["bias"]).model_dump()
    kind = {"kind": "residual", "strength": strength}
    return Profile(**profile | {"experts": (), "intervention": kind, "vectors": given})


def with_vectors(reference, profile):
    """What transformers computes if each layer's output is moved by hand."""
    layers, strength = reference.model.model.layers, profile.intervention.strength
    originals = {index: layers[index].forward for index in profile.vectors}
    for index, vector in profile.vectors.items():

        def moved(*args, index=index, vector=vector, **kwargs):
            added = strength * torch.tensor(vector)
            output = originals[index](*args, **kwargs)
            return output + added if torch.is_tensor(output) else (output[0] + added, *output[1:])

        layers[index].forward = moved
    found = reference.log_probabilities()
    for index in originals:
        del layers[index].forward
    return found


def test_vectors_after_layers_are_the_definition(case, record_property):
    engine, reference = case
    base = engine.log_probabilities(PROMPTS)
    for layers in ((0,), (1,), (0, 1)):
        profile = vectors_of(engine, layers, 1.5)
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
            with pytest.raises(SteeringError, match="steered already"):
                engine.steer(profile).__enter__()
        found = difference(steered, with_vectors(reference, profile))
        record_property("difference", found)
        assert found < 1e-5
        assert difference(steered, base) > 1e-2
        with engine.steer(profile.with_strength(0.0)):
            assert difference(engine.log_probabilities(PROMPTS), base) < ROUNDING
        assert difference(engine.log_probabilities(PROMPTS), base) < ROUNDING
    report = engine.probe(profile, PROMPTS)
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0
    far = profile.model_copy(update={"vectors": {9: profile.vectors[0]}})
    with pytest.raises(SteeringError, match="steers layer 9; this model has layers 0 to"):
        engine.steer(far).__enter__()


def few_shot(engine, header, count, longest):
    """Questions behind a common header: options of one to some tokens, and the model's answers."""
    generator = torch.Generator().manual_seed(3)

    def text(length):
        return tuple(torch.randint(2, VOCABULARY, (length,), generator=generator).tolist())

    examples = text(header)
    contexts = [(*examples, *text(5 + 7 * n)) for n in range(count)]
    pairs = [(context, text(1 + 7 * n % longest)) for context in contexts for n in range(10)]
    greedy = [tuple(answer) for answer in engine.generate(contexts, 4)]
    answered = list(zip(contexts, greedy, strict=True))
    return pairs + answered + [(context, answer[:1]) for context, answer in answered]


def read_whole(engine, pairs):
    """Log-likelihoods by `prompt_logprobs`, of every text as a whole."""
    outputs = engine._generate([(*one, *other) for one, other in pairs], {"prompt_logprobs": 0})
    answers = []
    for (_, continuation), output in zip(pairs, outputs, strict=True):
        rows = output.prompt_logprobs[-len(continuation) :]
        found = [row[token] for row, token in zip(rows, continuation, strict=True)]
        answers.append((sum(x.logprob for x in found), all(x.rank == 1 for x in found)))
    return answers


def scheduled(engine, monkeypatch):
    """The numbers of tokens of vLLM's steps from now on."""
    steps = []
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    honest = scheduler.schedule

    def watch(*args, **settings):
        output = honest(*args, **settings)
        steps.append(output.total_num_scheduled_tokens)
        return output

    monkeypatch.setattr(scheduler, "schedule", watch)
    return steps


def check_scores(engine, monkeypatch, header=70, count=3, longest=6):
    """Those of whole texts; tokens computed, and of those tokens that any plan has to compute."""
    pairs = few_shot(engine, header, count, longest)
    expected = read_whole(engine, pairs)
    requests = [replace(one, whole=False) for one in plan_scoring(pairs, engine.block)]
    scores = {}
    steps, before = scheduled(engine, monkeypatch), engine.computed()
    engine.forget()
    for request, found in zip(requests, engine.score(requests), strict=True):
        scores |= zip(request.pairs, found, strict=True)
    assert engine.computed() - before == sum(steps)
    found = [scores[pair] for pair in pairs]
    assert max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True)) < 1e-5
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert sum(greedy for _, greedy in found) >= 2 * count
    texts = [(*context, *continuation[:-1]) for context, continuation in pairs]
    tree = len({text[:end] for text in texts for end in range(1, len(text) + 1)})
    return sum(steps), tree, len(pairs)


def test_scores_are_those_of_whole_texts(case, monkeypatch, record_property):
    engine, _ = case
    computed, tree, options = check_scores(engine, monkeypatch)
    record_property("computed", f"{computed} of {tree}")
    assert engine.block == 32
    assert tree < computed <= tree + options * engine.block


def by_expert(weights, indices, experts):
    """[..., k] to [..., experts]: the weights of those selected."""
    empty = torch.zeros(*weights.shape[:-1], experts)
    return empty.scatter(-1, indices.long(), weights.float())


def check_routing(found, reference, profile=None):
    """Experts, their weights and the answer; of nearly tied ones another may be taken."""
    experts_agree, answers_agree = [], []
    for one in found:
        expected, following = reference.routing(one.tokens, profile)
        expected = expected[: len(one.experts)]
        got = by_expert(one.weights, one.experts, expected.shape[-1])
        agree = ((got > 0) == (expected > 0)).all(-1)
        assert difference(got[agree], expected[agree]) < TOLERANCE
        answer = torch.tensor(one.tokens[one.prompt_length :], dtype=torch.long)
        experts_agree.append(agree.flatten())
        answers_agree.append(following[one.prompt_length - 1 : -1] == answer)
    assert torch.cat(experts_agree).float().mean() > 0.99
    assert not any(map(len, answers_agree)) or torch.cat(answers_agree).float().mean() > 0.9


def test_routing_is_transformers(case):
    """Of prompts, and of answers with them; each answer told to transformers as a whole."""
    engine, reference = case
    for kind in (None, "mask", "amplify"):
        profile = kind and profile_of(engine, INTERVENTIONS[kind], 2)
        with engine.steer(profile) if profile else nullcontext():
            prompts, found = engine.routing(PROMPTS), engine.routing(PROMPTS, 6)
        assert [one.tokens for one in prompts] == [tuple(prompt) for prompt in PROMPTS]
        assert [len(one.experts) for one in prompts] == [len(prompt) for prompt in PROMPTS]
        assert [len(one.experts) for one in found] == [len(prompt) + 5 for prompt in PROMPTS]
        check_routing(prompts, reference, profile)
        check_routing(found, reference, profile)
        if reference.name != "deepseek" and not profile:  # transformers does not carry its code
            tokens = torch.tensor([found[0].tokens])
            routers = find_routers(reference.model)
            with (
                torch.no_grad(),
                capture_routing(routers) as captured,
                capture_spread(routers) as spread,
            ):
                reference.model(tokens)
            assert difference(found[0].spread, spread()[:-1]) < TOLERANCE
            assert difference(found[0].spread, torch.zeros(())) > 100 * TOLERANCE
            read = captured.indices()[:-1], captured.weights()[:-1]
            assert torch.equal(read[0].sort(-1).values, found[0].experts.sort(-1).values)


def test_probes(case):
    engine, reference = case
    report = engine.probe(profile_of(engine, INTERVENTIONS["bias"]), PROMPTS)
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0.01
    assert report.selection_changed > 0
    assert report.active_experts == engine.layers[0]["top_k"]
    assert report.tokens == sum(map(len, PROMPTS))
    for kind, intervention in INTERVENTIONS.items():
        if (reference.name, kind) not in REFUSED:
            null = intervention.model_copy(update={"strength": 0.0})
            assert engine.probe(profile_of(engine, null), PROMPTS).logit_max_change == 0.0


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    return folder, Reference("qwen3_moe", build("qwen3_moe", folder))


@pytest.fixture(scope="module")
def tight(qwen):
    """Little at a time: prompts come in chunks, and answers that need the room are put off."""
    folder, reference = qwen
    engine = start(folder, max_num_batched_tokens=48, max_num_seqs=4, num_gpu_blocks_override=10)
    yield engine, reference
    stop(engine)


def test_routing_of_many_requests_in_little_room(tight, monkeypatch):
    """In chunks, put off and computed again, with prefixes in common: the same as one by one."""
    engine, reference = tight
    generator, seen = torch.Generator().manual_seed(2), []
    texts = [torch.randint(2, VOCABULARY, (60,), generator=generator).tolist() for _ in range(3)]
    prompts = [*texts, texts[0][:50], texts[0], [7, 8, 9], texts[2][:40]]
    honest = steered_vllm.assemble
    monkeypatch.setattr(steered_vllm, "assemble", lambda *a: seen.append(a[0]) or honest(*a))
    found = engine.routing(prompts, 50)
    rows = load(base64.b64decode(seen[0]["rows"]))
    pairs = torch.stack([rows["request"], rows["position"]], 1)
    assert len(pairs.unique(dim=0)) < len(pairs)  # some were put off
    assert sum(len(one.experts) for one in found) == sum(map(len, prompts)) + 49 * len(prompts)
    assert [one.tokens[: one.prompt_length] for one in found] == [tuple(p) for p in prompts]
    check_routing(found, reference)
    stopper = found[5].tokens[6]
    (cut,) = engine.routing([[7, 8, 9]], 50, [stopper])
    assert cut.tokens == found[5].tokens[: 4 + found[5].tokens[3:].index(stopper)]
    assert len(cut.experts) == len(cut.tokens) - 1


def test_scores_in_little_room(tight, monkeypatch):
    """In chunks, put off and computed again."""
    scheduler = tight[0]._llm.llm_engine.engine_core.engine_core.scheduler
    honest, put_off = scheduler._preempt_request, []
    watch = lambda *a, **k: put_off.append(a) or honest(*a, **k)  # noqa: E731
    monkeypatch.setattr(scheduler, "_preempt_request", watch)
    check_scores(tight[0], monkeypatch, header=20, count=4, longest=60)
    assert put_off


def test_the_prefix_cache_is_used_and_emptied(tight):
    engine, reference = tight
    engine.forget()
    profile = profile_of(engine, INTERVENTIONS["bias"])
    cached = []
    for _ in range(2):
        outputs = engine._generate(PROMPTS, {})
        cached.append(sum(output.num_cached_tokens for output in outputs))
    with engine.steer(profile):
        steered = engine.log_probabilities(PROMPTS)
    assert cached == [0, 32]
    assert difference(steered, reference.log_probabilities(profile)) < TOLERANCE


@pytest.mark.parametrize("unit", ["sigma", "scores"])
def test_bias_in_other_units_is_the_definition(tight, unit):
    engine, reference = tight
    sigmas = ((0, 0.4), (1, 1.1)) if unit == "sigma" else ()
    intervention = Intervention(kind="bias", strength=1.5, unit=unit, sigmas=sigmas)
    profile, base = profile_of(engine, intervention), engine.log_probabilities(PROMPTS)
    shifted = [
        one.model_copy(update={"score": 0.5 * (-1) ** at + 0.1 * at})
        for at, one in enumerate(profile.experts)
    ]
    profile = profile.model_copy(update={"experts": tuple(shifted)})
    with engine.steer(profile):
        steered = engine.log_probabilities(PROMPTS)
    assert difference(steered, reference.log_probabilities(profile)) < TOLERANCE
    assert difference(steered, base) > 100 * TOLERANCE
    with engine.steer(profile.with_strength(0.0)):
        assert torch.equal(engine.log_probabilities(PROMPTS), base)


def test_profiles_are_switched_and_refused_without_a_trace(tight):
    engine, reference = tight
    base = engine.log_probabilities(PROMPTS)
    for kind in ("mask", "reweight", "force"):
        profile = profile_of(engine, INTERVENTIONS[kind])
        with engine.steer(profile):
            assert (
                difference(engine.log_probabilities(PROMPTS), reference.log_probabilities(profile))
                < TOLERANCE
            )
            with pytest.raises(SteeringError, match="steered already"):
                engine.steer(profile).__enter__()
    refused = {
        "same shape but other weights": profile_of(engine, INTERVENTIONS["bias"], routers="0" * 16),
        "score channel needs a router": profile_of(
            engine, Intervention(kind="bias", strength=1.0, channel="score")
        ),
        "leaves fewer than the 8": profile_of(engine, INTERVENTIONS["mask"], 121),
        "force cannot activate 9": profile_of(engine, INTERVENTIONS["force"], 18),
    }
    for reason, profile in refused.items():
        with pytest.raises(SteeringError, match=reason):
            engine.steer(profile).__enter__()
        assert torch.equal(engine.log_probabilities(PROMPTS), base)


@pytest.mark.parametrize(
    ("name", "eager"),
    [
        ("olmoe", True),
        ("qwen3_moe", False),
        pytest.param("deepseek", False, marks=pytest.mark.full),
    ],
)  # qwen3_moe calls its gate before the MoE layer, deepseek inside it
def test_unsteered_is_vllm_to_the_bit(name, eager, tmp_path, monkeypatch):
    """Also: a graph that vLLM compiled and cached without the edits is not taken for one with.

    And compiled graphs take the row of each token.
    """
    from vllm import LLM
    from vllm.model_executor.custom_op import op_registry_oot

    reference = Reference(name, build(name, tmp_path))
    with monkeypatch.context() as patch:
        patch.delitem(op_registry_oot, "MoERunner", raising=False)
        plain = object.__new__(SteeredVllm)
        plain._llm = LLM(
            model=str(tmp_path), dtype="float32", enforce_eager=eager, max_model_len=128,
            block_size=32, distributed_executor_backend="uni", skip_tokenizer_init=True,
            max_logprobs=-1, seed=0,
        )  # fmt: skip
        expected = plain.log_probabilities(PROMPTS)
        stop(plain)
    engine = start(tmp_path, enforce_eager=eager)
    assert torch.equal(engine.log_probabilities(PROMPTS), expected)
    for intervention in list(INTERVENTIONS.values())[:5]:
        profile = profile_of(engine, intervention)
        with engine.steer(profile):
            assert (
                difference(engine.log_probabilities(PROMPTS), reference.log_probabilities(profile))
                < TOLERANCE
            )
        assert torch.equal(engine.log_probabilities(PROMPTS), expected)
    assert engine.probe(profile, PROMPTS).active_experts == (
        engine.layers[0]["top_k"] if eager else None
    )
    loaded = [profile_of(engine, INTERVENTIONS[kind]) for kind in ("bias", "reweight", "force")]
    for profile in loaded:
        engine.load(profile)
    names = [None, *(profile.id for profile in loaded)]
    rows = engine.log_probabilities(
        [prompt for prompt in PROMPTS for _ in names], names * len(PROMPTS)
    ).view(len(PROMPTS), len(names), -1)
    assert difference(rows[:, 0], expected) < 1e-5
    for place, profile in enumerate(loaded, 1):
        assert difference(rows[:, place], reference.log_probabilities(profile)) < TOLERANCE
    check_scores(engine, monkeypatch)
    if not eager:
        with pytest.raises(SteeringError, match="routing can be watched with enforce_eager only"):
            engine.routing(PROMPTS)
    stop(engine)


@pytest.mark.full
def test_two_tensor_parallel_processes(qwen, monkeypatch, record_property):
    folder, reference = qwen
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    engine = start(folder, tensor_parallel_size=2, distributed_executor_backend="mp")
    base = engine.log_probabilities(PROMPTS)
    found = [difference(base, reference.log_probabilities())]
    for intervention in list(INTERVENTIONS.values())[:5]:
        profile = profile_of(engine, intervention)
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
        found.append(difference(steered, reference.log_probabilities(profile)))
        assert torch.equal(engine.log_probabilities(PROMPTS), base)
    check_routing(engine.routing(PROMPTS, 4), reference)
    with pytest.raises(SteeringError, match="same shape but other weights"):
        engine.steer(profile_of(engine, INTERVENTIONS["bias"], routers="0" * 16)).__enter__()
    stop(engine)
    record_property("differences", " ".join(f"{one:.1e}" for one in found))
    assert max(found) < TOLERANCE


def in_one_batch(engine, base, profiles):
    """How far two plain batchings differ, and a batch of several profiles from each one alone."""
    copies = 1 + len(profiles)
    plain = engine.log_probabilities(PROMPTS * copies).view(copies, len(PROMPTS), -1)
    for profile in profiles:
        engine.load(profile)
    names = [name for name in (None, *(one.id for one in profiles)) for _ in PROMPTS]
    rows = engine.log_probabilities(PROMPTS * copies, names).view(copies, len(PROMPTS), -1)
    alone = [base]
    for profile in profiles:
        with engine.steer(profile):
            alone.append(engine.log_probabilities(PROMPTS))
        engine.drop(profile.id)
    spread = max(difference(one, base) for one in plain)
    return spread, max(difference(a, b) for a, b in zip(rows, alone, strict=True))


def test_qwen3_next_runs_in_bfloat16(tmp_path, record_property):
    """vLLM's linear attention on CPUs takes bfloat16 only, where few bits decide among 512 experts.

    So both engines are held against transformers in float32: vLLM is about as near to it as
    transformers in bfloat16 is.
    """
    model = build("qwen3_next", tmp_path)
    exact = Reference("qwen3_next", model)
    engine = start(tmp_path, dtype="bfloat16")
    profiles = [
        None,
        *(profile_of(engine, INTERVENTIONS[kind], 64) for kind in ("bias", "amplify")),
    ]
    expected = [exact.log_probabilities(profile) for profile in profiles]
    rounded = Reference("qwen3_next", model.bfloat16())
    noise = [
        difference(rounded.log_probabilities(p), e) for p, e in zip(profiles, expected, strict=True)
    ]
    base = engine.log_probabilities(PROMPTS)
    ours = [difference(base, expected[0])]
    for profile, want in zip(profiles[1:], expected[1:], strict=True):
        with engine.steer(profile):
            steered = engine.log_probabilities(PROMPTS)
        ours.append(difference(steered, want))
        assert torch.equal(engine.log_probabilities(PROMPTS), base)
    batching, mixed = in_one_batch(engine, base, profiles[1:])
    stop(engine)
    assert mixed <= 2 * batching
    record_property("batching", f"{mixed:.2f} where plain batches differ by {batching:.2f}")
    record_property("outcome", "bfloat16 only")
    record_property("vllm", " ".join(f"{one:.2f}" for one in ours))
    record_property("transformers", " ".join(f"{one:.2f}" for one in noise))
    record_property("effect", " ".join(f"{difference(e, expected[0]):.2f}" for e in expected[1:]))
    assert all(a < 3 * b for a, b in zip(ours, noise, strict=True))


def test_ernie_with_a_correction_bias_is_refused(tmp_path):
    """vLLM's CPU router leaves that bias out; without it ernie's parity above is exact."""
    model = build("ernie4_5_moe", tmp_path)
    for key, value in model.named_parameters():
        if "e_score_correction_bias" in key:
            nn.init.normal_(value, std=0.05)
    model.save_pretrained(tmp_path)
    with pytest.raises(SteeringError, match="layer 1: vLLM's CPU router"):
        start(tmp_path)
    cleanup()


def test_phimoe_without_attention_biases_is_refused(tmp_path):
    build("phimoe", tmp_path, attention_bias=False)
    with pytest.raises(SteeringError, match="uninitialised memory"):
        start(tmp_path)
    cleanup()


def test_dense_models_and_no_models_are_refused(tmp_path):
    config = LlamaConfig(**COMMON)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        SteeringError, match=r"no experts that vLLM runs\. Of a dense model the neurons"
    ):
        start(tmp_path)
    cleanup()
    with pytest.raises(UserError, match="no such folder"):
        start("nowhere")
    with pytest.raises(UserError, match="vLLM cannot run model"):
        start(tmp_path, max_model_len=10**6)
    with pytest.raises(UserError, match="no expert parallelism on CPUs"):
        start(tmp_path, enable_expert_parallel=True)
    cleanup()

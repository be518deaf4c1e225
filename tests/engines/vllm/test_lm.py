"""The LM over vLLM against the one over transformers, on the embedded model."""

import os

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

from lm_eval.api.instance import Instance

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.engines.vllm import SteeredVllm
from dsmoe_eval.engines.vllm.lm import VllmLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.models.loading import load_model

pytestmark = pytest.mark.vllm

PROMPTS = (
    "In biology, what is the maker of the cell?",
    "What is the sign of the root?",
    "In law, the keeper of the charge is",
)
CONTINUATIONS = (" 1", " 13", " the", " the maker of the cell", "?")


def _requests(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)
    ]


def test_both_give_the_same():
    from vllm.distributed import cleanup_dist_env_and_memory

    loaded = load_model("lab-poly", "cpu")
    engine = SteeredVllm(
        "lab-poly",
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=False,
        max_model_len=64,
        distributed_executor_backend="uni",
    )
    ours, theirs = VllmLM(engine, loaded.tokenizer), TransformersLM(loaded, batch_tokens=256)
    pairs = [(prompt, continuation) for prompt in PROMPTS for continuation in CONTINUATIONS]
    found = ours.loglikelihood(_requests("loglikelihood", pairs))
    expected = theirs.loglikelihood(_requests("loglikelihood", pairs))
    settings = {"until": ["."], "max_gen_toks": 8}
    prompts = [(prompt, settings) for prompt in PROMPTS]
    answers, wanted = ours.complete(prompts), theirs.complete(prompts)
    texts = ours.generate_until(_requests("generate_until", prompts))
    stops = {"until": [texts[0].strip()[-1]], "max_gen_toks": 40}
    cut = [lm.complete([(PROMPTS[0], stops)]) for lm in (ours, theirs)]
    drawn = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 16}
    twice = [ours.complete([(PROMPTS[0], drawn)] * 2) for _ in "ab"]
    # The same kinds as `test_case_05` of the transformers engine.
    shaped = {"repetition_penalty": 1.5, "max_gen_toks": 12}
    likeliest = {"temperature": 0.7, "top_p": 0, "top_k": -1, "max_gen_toks": 12}
    special = {"until": ["x<", "nd>"], "max_gen_toks": 12}
    case_05 = [
        [lm.complete([(prompt, asked) for prompt in PROMPTS]) for lm in (ours, theirs)]
        for asked in (shaped, likeliest, special)
    ]
    for unknown in ({"no_repeat_ngram_size": 2}, {"temperature": 3.0}, {"num_beams": 2}):
        with pytest.raises(UserError, match=next(iter(unknown))):
            ours.complete([(PROMPTS[0], unknown)])
    engine.close()
    cleanup_dist_env_and_memory()
    assert engine.identity == loaded.identity
    assert answers == wanted
    assert texts == [answer.text for answer in wanted]
    assert cut[0] == cut[1]
    assert [one for one, _ in case_05] == [other for _, other in case_05]
    assert cut[0][0].tokens == cut[1][0].tokens < 40
    assert twice[0] == twice[1]
    assert len({*twice[0]}) > 1
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx(
        [v for v, _ in expected], rel=1e-6, abs=1e-5
    )

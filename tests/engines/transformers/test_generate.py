"""One batch of unlike requests, against the model run plainly and filters counted by hand."""

import dataclasses
import itertools

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from scipy.stats import chisquare
from transformers import GenerationConfig

from dsmoe_eval.engines.requests import Request, Sampling
from dsmoe_eval.engines.transformers.answers import greedy_answers
from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.engines.transformers.generate import (
    _Choose,
    end_tokens,
    generate,
    positions,
)
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.models import load_model
from dsmoe_eval.tasks.decoding import read_decoding

from .. import spelled

TEXTS = ("What is 7 + 6?", "In biology, what is the maker of the cell?", "What is 12 + 30?")


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def prompts(loaded):
    return [tuple(loaded.tokenizer.encode(text)) for text in TEXTS]


def test_greedy_answers_are_the_models_own(loaded, prompts):
    got = generate(loaded, [Request(prompt, 6) for prompt in prompts])
    assert [answer.tokens for answer in got] == greedy_answers(loaded, prompts, 6, 999)
    for answer in got:
        ended = answer.tokens[-1] in end_tokens(loaded)
        assert answer.reason == ("stop" if ended else "max_tokens")
    assert any(answer.reason == "stop" for answer in got)
    assert positions(loaded) == 128


def test_each_request_has_its_own_limit_stop_and_scores(loaded, prompts):
    whole = generate(loaded, [Request(prompts[0], 6)])[0]
    stop = loaded.tokenizer.decode(whole.tokens[:2])[-1]
    requests = [
        Request(prompts[0], 6, stops=("never", stop)),
        Request(prompts[0], 1),
        Request(prompts[1], 6, top_logprobs=2),
        Request(prompts[0], 6, stops=(stop,), after=(whole.tokens[1],)),
    ]
    stopped, short, scored, later = generate(loaded, requests)
    assert (stopped.tokens, stopped.reason) == (whole.tokens[:2], "stop")
    assert (short.tokens, short.reason) == (whole.tokens[:1], "max_tokens")
    assert later.tokens[:2] == whole.tokens[:2]
    assert len(later.tokens) > 2  # its stop string came before it counted
    assert not stopped.scores
    assert [score.token for score in scored.scores] == list(scored.tokens)
    assert [generate(loaded, [request])[0].tokens for request in requests] == [
        answer.tokens for answer in (stopped, short, scored, later)
    ]


@torch.no_grad()
@pytest.mark.parametrize("sampling", [None, Sampling(1.5, seed=3)])
def test_logprobs_are_those_of_a_plain_forward(loaded, prompts, sampling):
    asked = [Request(p, 5, sampling=sampling, top_logprobs=3) for p in prompts]
    for prompt, answer in zip(prompts, generate(loaded, asked), strict=True):
        ids = torch.tensor([[*prompt, *answer.tokens]])
        logprobs = loaded.model(ids).logits[0].float().log_softmax(-1)
        for place, score in enumerate(answer.scores):
            row = logprobs[len(prompt) - 1 + place]
            assert score.token == answer.tokens[place]
            assert score.logprob == pytest.approx(float(row[score.token]), abs=1e-4)
            assert [v for _, v in score.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
            assert score.top[0][0] == int(row.argmax())


def test_a_draw_does_not_depend_on_its_company(loaded, prompts):
    mine = Request(prompts[0], 8, sampling=Sampling(4.0, seed=11))
    alone = generate(loaded, [mine])[0]
    others = [Request(prompts[1], 3), Request(prompts[2], 8, sampling=Sampling(4.0, seed=12))]
    assert generate(loaded, [*others, mine])[-1] == alone
    other = dataclasses.replace(mine, sampling=Sampling(4.0, seed=12))
    assert generate(loaded, [other])[0] != alone


LOGITS = torch.tensor([2.0, 1.0, 0.0, -0.5, 1.5, -4.0])


def test_draws_follow_the_softmax(loaded):
    choose = _Choose(loaded.model, [Request((1,), 9, sampling=Sampling(0.8, seed=0))], [])
    drawn = [int(choose(torch.tensor([[1]]), LOGITS[None]).argmax()) for _ in range(6000)]
    seen = torch.bincount(torch.tensor(drawn), minlength=len(LOGITS)).numpy()
    expected = (LOGITS.double() / 0.8).softmax(-1).numpy() * len(drawn)
    assert chisquare(seen, expected).pvalue > 0.001


def left_over(temperature, top_k, top_p):
    """Tokens that may be drawn, counted by hand: the likeliest k, of these the smallest nucleus."""
    shares = (LOGITS.double() / temperature).softmax(-1)
    order = sorted(range(len(LOGITS)), key=lambda token: -shares[token])[:top_k]
    whole, kept = sum(shares[token] for token in order), 0.0
    for count, token in enumerate(order, 1):
        kept += shares[token] / whole
        if top_p is not None and kept >= top_p:
            return set(order[:count])
    return set(order)


def test_each_row_leaves_out_what_its_settings_say(loaded):
    choices = itertools.product([0.7, 2.0], [None, 1, 3, 9], [None, 0.05, 0.5, 0.8, 0.95, 1.0])
    asked = list(choices)
    settings = [Sampling(t, seed=0, top_k=k, top_p=p) for t, k, p in asked]
    choose = _Choose(loaded.model, [Request((1,), 9, sampling=one) for one in settings], [])
    drawn = choose(torch.ones(len(asked), 1, dtype=int), LOGITS.repeat(len(asked), 1))
    for row, one in zip(drawn, asked, strict=True):
        assert set(row.isfinite().nonzero().flatten().tolist()) == left_over(*one), one


def test_greedy_logits_are_left_as_they_are(loaded):
    scores = torch.stack([LOGITS, LOGITS.flip(0)])
    requests = [Request((1,), 4), Request((1,), 4, sampling=Sampling(1.0, seed=0))]
    chosen = _Choose(loaded.model, requests, [])(torch.tensor([[1], [1]]), scores)
    assert torch.equal(chosen[0], LOGITS)
    assert not torch.equal(chosen[1], scores[1])


SHAPED = (
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
    {"min_new_tokens": 9},
    {"min_length": 20},
    {"bad_words_ids": [[12], [5, 6]], "suppress_tokens": [10, 11]},
    {"begin_suppress_tokens": list(range(8, 19))},
    {"forced_eos_token_id": 1, "repetition_penalty": 3.0},
)


@pytest.mark.parametrize("settings", SHAPED, ids=lambda one: ",".join(one))
def test_case_05_settings_act_as_in_transformers_on_each_prompt_alone(loaded, prompts, settings):
    shaping = read_decoding(settings).shaping
    got = generate(loaded, [Request(prompt, 12, shaping=shaping) for prompt in prompts])
    plain = generate(loaded, [Request(prompt, 12) for prompt in prompts])
    assert got != plain
    for prompt, answer in zip(prompts, got, strict=True):
        ids = torch.tensor([prompt])
        output = loaded.model.generate(ids, do_sample=False, max_new_tokens=12, **settings)
        assert answer.tokens == tuple(output[0, len(prompt) :].tolist())


@pytest.mark.parametrize("settings", SHAPED, ids=lambda one: ",".join(one))
def test_case_04_the_checkpoints_settings_act_only_where_they_are_used(
    loaded, settings, monkeypatch
):
    plain = asked_of(TransformersLM(loaded, 2048), TEXTS, max_gen_toks=12)
    file = GenerationConfig(eos_token_id=1, pad_token_id=0, **settings)
    monkeypatch.setattr(loaded.model, "generation_config", file)
    engine = TransformersEngine(loaded)
    assert dict(engine.generation.decoding) == settings
    assert asked_of(engine.language_model(), TEXTS, max_gen_toks=12) == plain
    used = engine.language_model(defaults=engine.generation.used("model"))
    got = asked_of(used, TEXTS, max_gen_toks=12)
    assert got != plain
    assert got == [asked_of(used, [text], max_gen_toks=12)[0] for text in TEXTS]
    hf = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, device="cpu")
    assert got == asked_of(hf, TEXTS, max_gen_toks=12)
    assert loaded.model.generation_config is file


def asked_of(lm, prompts, **settings):
    return lm.generate_until(
        [
            Instance(request_type="generate_until", doc={}, arguments=(p, dict(settings)), idx=0)
            for p in prompts
        ]
    )


def stops_around(text, special):
    """A special token, its parts and what reaches across it; ordinary strings before it."""
    place, length = text.index(special), len(special)
    before, after = text[max(0, place - 2) : place], text[place + length : place + length + 2]
    yield from (special, special[1:-2], before + special, special[:3], special[2:] + after)
    yield from (before + special + after, before[-1:] + special[:2], before, after)


@pytest.mark.parametrize("kind", spelled.KINDS)
@pytest.mark.parametrize("special", [*spelled.SPECIAL[1:], "ordinary <e>"])
def test_case_03_stops_may_be_in_and_across_special_tokens_as_in_lm_evals_hf(kind, special):
    tokenizer = spelled.tokenizer(kind)
    order = spelled.shuffled(tokenizer, 0)
    loaded = spelled.saying(tokenizer, order)
    ours = TransformersLM(loaded, 2048)
    hf = HFLM(pretrained=loaded.model, tokenizer=tokenizer, batch_size=1, device="cpu")
    place = len(order) if " " in special else order.index(tokenizer.convert_tokens_to_ids(special))
    near = {tokenizer.decode(token): token for token in order[place - 9 : place - 3]}
    prompts = [text for text, token in near.items() if [token] == tokenizer.encode(text)[-1:]][-2:]
    assert prompts
    whole = asked_of(ours, prompts, until=[], max_gen_toks=10)
    assert whole == asked_of(hf, prompts, until=[], max_gen_toks=10)
    if " " in special:
        return
    said = tokenizer.decode(order[place - 3 : place + 4])
    for stop in filter(str.strip, stops_around(said, special)):
        got = asked_of(ours, prompts, until=["@", stop], max_gen_toks=10)
        assert got == asked_of(hf, prompts, until=["@", stop], max_gen_toks=10), stop
        assert got != whole or stop != special

"""The engine against lm-eval's own `hf` model, and against one question at a time."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from dsmoe_eval.engines.requests import cut
from dsmoe_eval.engines.transformers import answers, trust
from dsmoe_eval.engines.transformers import lm as transformers_engine
from dsmoe_eval.engines.transformers.generate import generate
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.engines.transformers.prefix_tree import PackedRow
from dsmoe_eval.engines.transformers.shared_prefix_forward import grown_from
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model


@pytest.fixture
def unproven(tmp_path, monkeypatch):
    """No proof is known, and none that is made under a planted fault is kept."""
    monkeypatch.setattr("dsmoe_eval.engines.transformers.trust.cache_folder", lambda: tmp_path)


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def lm(loaded):
    return TransformersLM(loaded, batch_tokens=256)


@pytest.fixture(scope="module")
def reference(loaded):
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=7)


PROMPTS = (
    "In biology, what is the maker of the cell?",
    "What is the sign of the root?",
    "What is 7 + 6?",
    "In law, the keeper of the charge is",
)
CONTINUATIONS = (" 1", " 13", " the", " the maker of the cell", "?")


def _requests():
    pairs = [(prompt, continuation) for prompt in PROMPTS for continuation in CONTINUATIONS]
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
        for i, pair in enumerate(pairs)
    ]


def test_loglikelihoods_equal_lm_evals_own_model(lm, reference):
    ours = lm.loglikelihood(_requests())
    theirs = reference.loglikelihood(_requests(), disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], atol=1e-4)
    assert [bool(g) for _, g in ours] == [bool(g) for _, g in theirs]


def test_batch_composition_does_not_change_answers(lm, loaded):
    together = lm.loglikelihood(_requests())
    alone = TransformersLM(loaded, batch_tokens=1)
    one_by_one = [alone.loglikelihood([request])[0] for request in _requests()]
    np.testing.assert_allclose([a for a, _ in together], [a for a, _ in one_by_one], atol=1e-4)


@given(st.permutations(range(len(PROMPTS) * len(CONTINUATIONS))), st.integers(1, 20), st.data())
@settings(max_examples=10)
def test_neither_order_nor_company_changes_answers(lm, loaded, order, count, data):
    """Of more than 1e-4, whatever else is asked and however large the batches are."""
    expected = [value for value, _ in lm.loglikelihood(_requests())]
    other = TransformersLM(loaded, batch_tokens=data.draw(st.sampled_from([1, 16, 40, 8192])))
    chosen = order[:count]
    got = other.loglikelihood([_requests()[index] for index in chosen])
    np.testing.assert_allclose(
        [value for value, _ in got], [expected[index] for index in chosen], atol=1e-4
    )


def test_one_forward_serves_all_single_token_options(loaded):
    lm = TransformersLM(loaded, batch_tokens=256)
    lm.loglikelihood(_requests()[:1])  # the first use is checked, by more tokens
    before = lm.forward_tokens
    single = [
        Instance(request_type="loglikelihood", doc={}, arguments=(PROMPTS[0], f" {w}"), idx=i)
        for i, w in enumerate(("the", "what", "is", "of"))
    ]
    lm.loglikelihood(single)
    assert lm.forward_tokens - before == len(lm.tok_encode(PROMPTS[0]))


def _generations(settings):
    return [
        Instance(request_type="generate_until", doc={}, arguments=(p, dict(settings)), idx=i)
        for i, p in enumerate(PROMPTS)
    ]


def test_generation_equals_lm_evals_own_model(lm, reference):
    settings = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}
    ours = lm.generate_until(_generations(settings))
    theirs = reference.generate_until(_generations(settings), disable_tqdm=True)
    assert [text.strip() for text in ours] == [text.strip() for text in theirs]


def test_generation_stops_before_a_stop_string(lm):
    whole = lm.generate_until(_generations({"until": [], "max_gen_toks": 6}))
    stop = whole[0].split()[-1][-1] if whole[0].split() else "x"
    cut = lm.generate_until(_generations({"until": [stop], "max_gen_toks": 6}))
    assert cut[0] == whole[0].partition(stop)[0]


def test_what_does_not_fit_is_refused_not_cut(lm):
    long = Instance(request_type="loglikelihood", doc={}, arguments=("the " * 200, " sign"), idx=0)
    with pytest.raises(UserError, match="201 tokens and 0 for its answer do not fit"):
        lm.loglikelihood([long])
    with pytest.raises(UserError, match="do not fit into the model's 128 positions"):
        lm.generate_until(_generations({"until": [], "max_gen_toks": 125}))


def test_the_longest_text_of_each_kind_is_tried_for_room(lm):
    spent = lm.forward_tokens
    fine = [*_requests(), *_generations({"until": [], "max_gen_toks": 6})]
    lm.check_context_length([])
    lm.check_context_length(fine)
    long = Instance(request_type="loglikelihood", doc={}, arguments=("the " * 200, " sign"), idx=0)
    with pytest.raises(UserError, match="201 tokens and 0 for its answer do not fit"):
        lm.check_context_length([fine[0], long, *fine])
    with pytest.raises(UserError, match="and 125 for its answer do not fit"):
        lm.check_context_length([*fine, *_generations({"until": [], "max_gen_toks": 125})])
    assert lm.forward_tokens == spent


def _long_requests(count=12):
    """Examples in front of each question, and options of several tokens."""
    header = "What is the sign of the root? 7 + 6 " * 4
    return [
        Instance(
            request_type="loglikelihood", doc={}, arguments=(header + prompt, f" {option}"), idx=0
        )
        for prompt in PROMPTS
        for option in ("1 3 2", "the maker of it", "the maker", "13")
    ][:count]


def test_tokens_are_computed_once_and_counted(loaded):
    lm = TransformersLM(loaded, batch_tokens=64)
    lm._asked = True
    requests = _long_requests(16)
    lm.loglikelihood(requests)
    texts = [lm._encode_pair(*request.args) for request in requests]
    nodes = {
        tuple(both[:end])
        for context, rest in texts
        for both in [[*context, *rest]]
        for end in range(1, len(both))
    }
    questions = {tuple(context) for context, _ in texts}
    # No token twice, but for the words with which two questions happen to begin.
    assert len(nodes) <= lm.forward_tokens <= len(nodes) + 4 * len(questions)


class _Crowded:
    """Has memory for so many tokens at once: put before a model's trunk."""

    def __init__(self, most):
        self.most, self.seen = most, []

    def __call__(self, _module, _args, given):
        size = given["input_ids"].numel()
        self.seen.append(size)
        if size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")


@pytest.mark.parametrize("shares", [True, False])
def test_what_finds_no_memory_is_tried_in_halves(loaded, lm, shares):
    requests, settings = _requests() + _long_requests(), {"until": [], "max_gen_toks": 3}
    expected, texts = lm.loglikelihood(requests), lm.generate_until(_generations(settings))
    crowded, memory = TransformersLM(loaded, batch_tokens=512), _Crowded(110)
    crowded.shares = shares
    with loaded.model.model.register_forward_pre_hook(memory, with_kwargs=True):
        got = crowded.loglikelihood(requests)
        np.testing.assert_allclose([a for a, _ in got], [a for a, _ in expected], atol=1e-4)
        assert 0 < sum(size > 110 for size in memory.seen) < 5  # later batches are small at once
        memory.most = 16
        with pytest.raises(UserError, match="no memory for one row of"):
            crowded.loglikelihood(requests)
        assert crowded.generate_until(_generations(settings)) == texts


def test_a_model_on_which_sharing_goes_wrong_is_seen_and_computed_whole(
    loaded, lm, monkeypatch, unproven
):
    expected = lm.loglikelihood(_long_requests())
    wary = TransformersLM(loaded, batch_tokens=64)
    monkeypatch.setattr(PackedRow, "sees", lambda row: np.tri(len(row), dtype=bool))
    with pytest.warns(UserWarning, match="off by up to .* each text is computed whole"):
        got = wary.loglikelihood(_long_requests())
    np.testing.assert_allclose([a for a, _ in got], [a for a, _ in expected], atol=1e-4)
    assert not wary.shares
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        wary.loglikelihood(_long_requests())


def test_a_model_that_cannot_take_a_tree_is_computed_whole(loaded, lm, monkeypatch, unproven):
    expected = lm.loglikelihood(_long_requests())
    wary = TransformersLM(loaded, batch_tokens=64)

    def refuse(*_, **__):
        raise TypeError("no such argument")

    monkeypatch.setattr("dsmoe_eval.engines.transformers.lm.score_rows", refuse)
    with pytest.warns(UserWarning, match="no such argument"):
        got = wary.loglikelihood(_long_requests())
    np.testing.assert_allclose([a for a, _ in got], [a for a, _ in expected], atol=1e-4)


def test_in_16_bits_sharing_is_as_good_as_any_other_batch(monkeypatch, unproven):
    loaded = load_model("lab-poly", "cpu")
    loaded.model.to(torch.bfloat16)
    lm = TransformersLM(loaded, batch_tokens=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.loglikelihood(_long_requests() + _requests())
    assert lm.shares
    monkeypatch.setattr(PackedRow, "sees", lambda row: np.tri(len(row), dtype=bool))
    wary = TransformersLM(loaded, batch_tokens=64)
    with pytest.warns(UserWarning, match="off by up to"):
        wary.loglikelihood(_long_requests())


def test_in_16_bits_noise_as_large_as_between_two_batches_is_no_reason_to_refuse(monkeypatch):
    """As on gpt-oss: batches of whole texts differ by more than roundings of a token explain."""
    loaded = load_model("lab-poly", "cpu")
    loaded.model.to(torch.bfloat16)
    chance, whole = np.random.default_rng(0), TransformersLM._score_whole

    def noisy(lm, pairs, *rest):
        return [(value + chance.normal(), hit) for value, hit in whole(lm, pairs, *rest)]

    monkeypatch.setattr(TransformersLM, "_score_whole", noisy)
    lm = TransformersLM(loaded, batch_tokens=64)
    lm.loglikelihood(_long_requests())
    assert lm.shares
    *_, check = lm.sharing
    assert 0.5 < check.difference < check.tolerance


def test_generation_ends_when_all_texts_have_met_their_stop_string(loaded, lm, monkeypatch):
    whole = lm.generate_until(_generations({"until": [], "max_gen_toks": 40}))
    stops = sorted({text.strip()[0] for text in whole})
    written, generate = [], loaded.model.generate

    def noting(input_ids, **rest):
        output = generate(input_ids=input_ids, **rest)
        written.append(output.sequences.shape[1] - input_ids.shape[1])
        return output

    monkeypatch.setattr(loaded.model, "generate", noting)
    ended = lm.generate_until(_generations({"until": stops, "max_gen_toks": 40}))
    assert sum(written) < 10  # of one batch, which pauses to drop finished rows
    assert ended == [cut(text, stops) for text in whole]


def test_an_empty_context_is_the_first_token(lm, reference):
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=("", text), idx=0)
        for text in ("What is the sign", "the")
    ]
    ours, theirs = lm.loglikelihood(requests), reference.loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], atol=1e-4)


@torch.no_grad()
def test_a_loglikelihood_by_hand(lm, loaded):
    (got, greedy), *_ = lm.loglikelihood(_requests()[1:2])
    context = loaded.tokenizer.encode(PROMPTS[0])
    whole = loaded.tokenizer.encode(PROMPTS[0] + " 13")
    logits = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    rows = range(len(context) - 1, len(whole) - 1)
    expected = sum(float(logits[row, whole[row + 1]]) for row in rows)
    assert got == pytest.approx(expected, abs=1e-4)
    assert greedy == all(int(logits[row].argmax()) == whole[row + 1] for row in rows)


def _alike(count=9, words=25):
    """Prompts that begin alike, of several lengths, and one that stands alone."""
    start = " ".join(["What is 7 + 6?"] * (words // 5))
    tails = [" ".join(f"What is {n} + {m}?" for m in range(1 + n % 3)) for n in range(count)]
    return [*(f"{start} {tail}" for tail in tails), PROMPTS[0]]


def _ask(lm, prompts, settings):
    return lm.generate_until(
        [
            Instance(request_type="generate_until", doc={}, arguments=(p, dict(settings)), idx=0)
            for p in prompts
        ]
    )


@pytest.mark.parametrize(
    "settings", [{"max_gen_toks": 12}, {"max_gen_toks": 12, "do_sample": True, "temperature": 1.5}]
)
def test_answers_behind_a_header_are_those_of_whole_prompts(loaded, settings):
    prompts = _alike() + _alike(3)  # some of them twice
    shared, whole = TransformersLM(loaded, 512), TransformersLM(loaded, 512)
    whole.shares = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _ask(shared, prompts, settings) == _ask(whole, prompts, settings)
    assert shared._continues
    assert shared.forward_tokens < whole.forward_tokens / 2


def _spoilt(*given):
    grown = grown_from(*given)
    for layer in grown.layers:
        layer.values = layer.values.roll(1, -1)
    return grown


def _unknown(*_):
    raise ValueError("a cache of another kind")


@pytest.mark.parametrize("grow", [_spoilt, _unknown])
def test_a_header_that_changes_answers_is_not_used(loaded, monkeypatch, grow):
    whole = TransformersLM(loaded, 512)
    whole.shares = False
    wanted = _ask(whole, _alike(), {"max_gen_toks": 6})
    monkeypatch.setattr(transformers_engine, "grown_from", grow)
    wary = TransformersLM(loaded, 64)
    with pytest.warns(UserWarning, match="each prompt is computed whole"):
        assert _ask(wary, _alike(), {"max_gen_toks": 6}) == wanted


def test_answers_that_need_much_memory_are_asked_fewer_at_once(loaded, monkeypatch):
    sizes = []

    def noting(loaded, requests, *rest, **more):
        sizes.append(len(requests))
        return generate(loaded, requests, *rest, **more)

    monkeypatch.setattr(transformers_engine, "generate", noting)
    room = 512 * answers.bytes_per_token(loaded.model)
    monkeypatch.setattr(answers, "memory_for_answers", lambda _: room)
    lm = TransformersLM(loaded, 256)
    _ask(lm, _alike(40), {"max_gen_toks": 2})
    few = max(sizes)
    sizes.clear()
    _ask(lm, _alike(40), {"max_gen_toks": 50})
    assert 1 < max(sizes) < few


def test_a_header_that_saves_no_forward_splits_no_batch(loaded, monkeypatch):
    sizes = []

    def noting(loaded, requests, *rest, **more):
        sizes.append(len(requests))
        return generate(loaded, requests, *rest, **more)

    monkeypatch.setattr(transformers_engine, "generate", noting)
    lm = TransformersLM(loaded, 4096)
    drawn = {"max_gen_toks": 3, "do_sample": True, "temperature": 1.0}
    _ask(lm, [prompt for prompt in _alike(4) for _ in range(8)], drawn)
    assert sizes == [40]


def test_case_24_the_outcome_of_each_comparison_is_kept(loaded, lm, monkeypatch, unproven):
    lm.loglikelihood(_long_requests())
    assert lm.sharing
    for check in lm.sharing:
        assert check.agrees
        assert 0 <= check.difference <= check.tolerance
    monkeypatch.setattr(PackedRow, "sees", lambda row: np.tri(len(row), dtype=bool))
    wary = TransformersLM(loaded, batch_tokens=64)
    with pytest.warns(UserWarning, match="off by up to"):
        wary.loglikelihood(_long_requests())
    (check,) = wary.sharing
    assert (check.what, check.agrees) == (trust.SMALL, False)
    assert check.difference > check.tolerance == trust.PROVEN
    monkeypatch.undo()  # and so to the cache with the right answer
    monkeypatch.setattr(transformers_engine, "score_rows", _unknown)
    unable = TransformersLM(loaded, batch_tokens=64)
    with pytest.warns(UserWarning, match="what texts share cannot be computed once"):
        unable.loglikelihood(_long_requests())
    *_, check = unable.sharing
    assert (check.agrees, check.difference, check.tolerance) == (False, None, None)


@pytest.mark.parametrize(("grow", "agrees"), [(grown_from, True), (_spoilt, False)])
def test_case_24_so_is_that_of_answers_behind_a_header(loaded, monkeypatch, grow, agrees):
    monkeypatch.setattr(transformers_engine, "grown_from", grow)
    lm = TransformersLM(loaded, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _ask(lm, _alike(), {"max_gen_toks": 6})
    (check,) = lm.sharing
    assert (check.what, check.agrees, check.tolerance) == ("answers", agrees, 1e-4)
    assert (check.difference <= 1e-4) == agrees


def test_case_18_answers_do_not_depend_on_threads_beyond_the_last_digits(loaded):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            lm = TransformersLM(loaded, 256)
            found.append((lm.loglikelihood(_requests()), _ask(lm, _alike(), {"max_gen_toks": 8})))
    finally:
        torch.set_num_threads(before)
    (one, said), (other, again) = found
    assert said == again
    assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
    np.testing.assert_allclose([a for a, _ in one], [a for a, _ in other], atol=1e-4)

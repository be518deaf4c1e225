"""The end of each answer of a batch, against a search of its whole text after each token."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dsmoe_eval.engines.requests import Request, Sampling, holds_stop
from dsmoe_eval.engines.transformers.generate import generate
from dsmoe_eval.engines.transformers.stops import Stops
from dsmoe_eval.models import load_model

from .. import spelled

CPU = torch.device("cpu")


def stops_of(requests, tokenizer):
    stops = Stops(requests, tokenizer, (), CPU)
    stops.pauses = False
    return stops


def plain(tokenizer, ends, request, tokens):
    """The definition: after each token, a search in all of the answer's text."""
    start = None if request.after else 0
    for count in range(1, len(tokens) + 1):
        said = tokens[:count]
        stopped = start is not None and holds_stop(tokenizer, said[start:], request)
        if request.after and tuple(said[-len(request.after) :]) == request.after:
            start = count
        if stopped or said[-1] in ends:
            return count, True
        if count == request.limit:
            return count, False
    raise AssertionError("the text is shorter than its limit")


TOKENIZERS = {kind: spelled.tokenizer(kind) for kind in spelled.KINDS}


@st.composite
def asked(draw, tokenizer, texts):
    """Requests, most of whose stop strings are somewhere in their texts."""
    requests = []
    for text in texts:
        said = tokenizer.decode(text)
        start = draw(st.integers(0, max(0, len(said) - 1)))
        stops = {
            said[start : start + draw(st.integers(1, 4))],
            draw(st.sampled_from(("", "n't", "<"))),
        }
        mark = draw(st.integers(0, len(text) - 2))
        after = tuple(text[mark : mark + draw(st.integers(0, 2))])
        limit = draw(st.integers(1, len(text)))
        requests.append(Request((0,), limit, tuple(filter(None, stops)), after))
    return requests


def run(stops, ids, intervals):
    """The calls that `generate` makes, where a batch pauses to drop rows."""
    rows, step = list(range(len(ids))), 1
    while rows:
        stops._interval = intervals.pop() if intervals else 1
        last = step + stops.steps_left() - 1
        while not stops(ids[rows, : step + 1], None).all() and step < last:
            step += 1
        left = stops.read(ids[rows, : step + 1])
        step += 1
        stops.keep(left)
        rows = [rows[row] for row in left]


@pytest.mark.parametrize("kind", spelled.KINDS)
@given(data=st.data())
@settings(max_examples=40)
def test_an_answer_ends_where_a_search_at_each_token_ends_it(kind, data):
    tokenizer = TOKENIZERS[kind]
    draw = data.draw
    token = st.integers(0, len(tokenizer) - 1)
    texts = draw(st.lists(st.lists(token, min_size=12, max_size=12), min_size=1, max_size=9))
    requests = draw(asked(tokenizer, texts))
    ends = draw(st.sets(token, max_size=2))
    stops = Stops(requests, tokenizer, ends, CPU)
    ids = torch.tensor([[0, *text] for text in texts])
    run(stops, ids, draw(st.lists(st.integers(1, 9), max_size=4)))
    for place, (request, text) in enumerate(zip(requests, texts, strict=True)):
        length, stopped = plain(tokenizer, ends, request, text)
        assert (stops.lengths[place], stops.stopped[place]) == (length, stopped)
        assert stops.tokens[place] == text[:length]


class Pieces:
    """Token n is the n-th piece; the last is special."""

    pieces = ("ab", "c", "é"[:1], "STOP", "")

    def decode(self, tokens, **_):
        return "".join(self.pieces[token] for token in tokens)


def test_a_stop_string_over_two_tokens_is_seen():
    finished = stops_of([Request((0,), 9, stops=("bc",))], Pieces())
    for tokens, done in (([0], False), ([0, 0], False), ([0, 0, 1], True)):
        assert bool(finished(torch.tensor([[0, *tokens]]), None)[0]) == done
    assert finished.lengths == [3]


class Letters:
    """A token for each letter; 0 and 27 say nothing."""

    def decode(self, tokens, skip_special_tokens):
        assert not skip_special_tokens  # a special token may be a stop string
        return "".join(chr(96 + t) for t in tokens if 0 < t < 27)


def letters(*texts):
    return torch.tensor([[ord(letter) - 96 for letter in text] for text in texts])


def same(count, *stops):
    return [Request((0,), 99, stops=stops) for _ in range(count)]


def test_each_text_stops_when_its_stop_string_is_whole_and_stays_stopped():
    finished = stops_of(same(4, "xyz", "q"), Letters())
    steps = letters("qqaxyzaa", "qqaaqaaa", "qqxyaaaa", "xyzaaaaa")  # prompts of two letters
    seen = [finished(steps[:, :end], None).tolist() for end in range(3, 9)]
    stopped = [[row[text] for row in seen] for text in range(4)]
    assert stopped == [
        [False, False, False, True, True, True],
        [False, False, True, True, True, True],
        [False] * 6,
        [False] * 6,  # the string began in the prompt
    ]


def test_a_tail_that_only_looks_like_a_stop_string_is_not_one():
    """A tokenizer that tidies the beginning of what it decodes may find there what is not."""

    class Tidy(Letters):
        def decode(self, tokens, skip_special_tokens):
            text = super().decode(tokens, skip_special_tokens)
            return text[:3].replace("s", "") + text[3:] if len(text) > 3 else text

    class TidyTail(Tidy):
        def decode(self, tokens, skip_special_tokens):
            text = super().decode(tokens, skip_special_tokens)
            return text.replace("asb", "ab") if len(tokens) < 20 else text

    for tokenizer, text in ((Tidy(), "ccccasb"), (TidyTail(), "c" * 30 + "asb")):
        finished = stops_of(same(1, "ab"), tokenizer)
        steps = letters(text)
        for end in range(1, steps.shape[1] + 1):
            assert finished(steps[:, :end], None).tolist() == [False]


@pytest.mark.parametrize("stop", ["a", "é", "</s>"])
def test_the_tail_holds_the_longest_stop_string(stop):
    """Where each token is a byte, it has the most tokens."""

    class Bytes:
        def decode(self, tokens, **_):
            return bytes(tokens).decode(errors="replace")

    finished = stops_of(same(1, "@", stop), Bytes())
    text = [*b"-" * 40, *stop.encode()]
    steps = torch.tensor([text])
    seen = [bool(finished(steps[:, :end], None)) for end in range(1, len(text) + 1)]
    assert seen == [False] * (len(text) - 1) + [True]


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


def unlike(loaded, count):
    """Requests of several lengths and limits, some of which sample, shape or report."""
    texts = ("What is 7 + 6?", "In biology, what is the maker of the cell?", "What is 12 + 30?")
    prompts = [tuple(loaded.tokenizer.encode(text)) for text in texts]
    kinds = (
        {},
        {"sampling": Sampling(3.0, seed=5), "top_logprobs": 2},
        {"sampling": Sampling(2.0, seed=6), "stops": ("a", "13")},
        {"top_logprobs": 0, "shaping": (("repetition_penalty", 1.5),)},
    )
    return [Request(prompts[n % 3], 2 + 5 * (n % 7), **kinds[n % len(kinds)]) for n in range(count)]


def test_rows_that_leave_the_batch_change_no_other_answer(loaded, monkeypatch):
    requests, rows = unlike(loaded, 20), []
    with loaded.model.model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    ):
        together = generate(loaded, requests)
    assert rows[0] == 20
    assert sorted(rows, reverse=True) == rows
    assert sum(rows) < 1.5 * sum(len(answer.tokens) for answer in together)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = generate(loaded, [request])
        assert dataclasses.replace(answer, scores=()) == dataclasses.replace(alone, scores=())
        for one, other in zip(answer.scores, alone.scores, strict=True):
            assert one.token == other.token
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    monkeypatch.setattr(Stops, "pauses", property(lambda _: False, lambda *_: None), raising=False)
    stayed = generate(loaded, requests)
    assert [answer.tokens for answer in stayed] == [answer.tokens for answer in together]


@pytest.mark.parametrize("room", [20, 60])
def test_prompts_in_parts_give_the_same_answers(loaded, room):
    requests, columns = unlike(loaded, 6), []
    with loaded.model.model.register_forward_pre_hook(
        lambda _, __, given: columns.append(given["input_ids"].numel()), with_kwargs=True
    ):
        parts = generate(loaded, requests, room=room)
    assert max(columns) <= room
    whole = generate(loaded, requests)
    assert [answer.tokens for answer in parts] == [answer.tokens for answer in whole]


class Copies(TorchDispatchMode):
    """Counts what crosses to the host: numbers that Python reads, and tensors."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.scalars = self.tensors = 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self.counting(getattr(torch.Tensor, name)))

    def counting(self, read):
        def counted(*given):
            self.tensors += 1
            return read(*given)

        return counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.scalars += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_nothing_crosses_to_the_host_by_the_step_but_what_transformers_reads(loaded, monkeypatch):
    """It reads whether all are finished and whether there is padding; each search is one copy."""
    requests = [one for one in unlike(loaded, 32) if one.sampling]
    monkeypatch.setattr(Stops, "pauses", property(lambda _: False, lambda *_: None), raising=False)
    found = []
    for limit in (12, 28):
        some = [dataclasses.replace(one, limit=limit, stops=("@",)) for one in requests]
        with Copies(monkeypatch) as copies:
            generate(loaded, some)
        found.append((copies.scalars, copies.tensors))
    (scalars, tensors), (more_scalars, more_tensors) = found
    assert len(requests) == 16
    assert more_scalars - scalars <= 2 * 16
    assert more_tensors - tensors == 16 // 2


def test_a_lone_answer_that_only_its_end_stops_is_read_once(loaded, monkeypatch):
    (request,) = unlike(loaded, 1)
    counts = []
    for limit in (4, 9):
        with Copies(monkeypatch) as copies:
            stops = (loaded.tokenizer.eos_token,)
            (answer,) = generate(loaded, [dataclasses.replace(request, limit=limit, stops=stops)])
        counts.append(copies.tensors)
    assert counts == [1, 1]
    ids = torch.tensor([request.prompt])
    plain = loaded.model.generate(ids, do_sample=False, max_new_tokens=9)
    assert answer.tokens == tuple(plain[0, len(request.prompt) :].tolist())

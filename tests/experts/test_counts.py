"""Counts by document, phase and token class, against a loop over tokens."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import Marker, count_routing

from ..damage import damaged
from .conftest import EXPERTS, LAYERS, K, random_pass

SEEDS = st.integers(0, 10**6)
PASSES = settings(deadline=None, max_examples=25)


@PASSES
@given(SEEDS, st.sampled_from([0.15, 0.5, 0.9]))
def test_counts_equal_a_loop_over_tokens(seed, quantile):
    marker = Marker("a", 3, 1.0)
    with random_pass(seed) as (seen, rows):
        counts = count_routing(seen, quantile, [marker])
        used, gate = np.zeros_like(counts.used), np.zeros(counts.gate.shape)
        marked, tokens = np.zeros_like(counts.marked), np.zeros_like(counts.tokens)
        for row in rows:
            place = 2 * row.document + row.generated
            same = [r for r in rows if (r.domain, r.generated) == (row.domain, row.generated)]
            bar = np.quantile(np.array([r.saliency for r in same], dtype=np.float32), quantile)
            salient = int(np.float32(row.saliency) > bar)
            tokens[place, salient] += 1
            for layer in range(LAYERS):
                chosen = zip(row.experts[layer], row.weights[layer], strict=True)
                for expert, weight in chosen:
                    used[place, salient, layer, expert] += 1
                    gate[place, layer, expert] += weight
                    marked[place, 0, layer, expert] += row.token == marker.token
        np.testing.assert_array_equal(counts.tokens, tokens)
        np.testing.assert_array_equal(counts.used, used)
        np.testing.assert_array_equal(counts.marked, marked)
        np.testing.assert_allclose(counts.gate, gate, rtol=1e-6)
        assert (used.sum((1, 3)) == K * tokens.sum(1)[:, None]).all()
        assert counts.experts == EXPERTS


@settings(PASSES, max_examples=8)
@given(SEEDS, st.integers(1, 4))
def test_chunks_of_a_text_add_up_to_one_document(seed, parts):
    """Whatever batch a chunk came in: groups of two documents of a domain, against their sums."""
    with random_pass(seed) as (seen, _):
        apart = count_routing(seen)
        group = tuple(
            index % 3 if index % 3 < parts else index for index in range(len(seen.domain))
        )
        numbers = {one: number for number, one in enumerate(dict.fromkeys(group))}
        group = tuple(numbers[one] for one in group)
        shutil.rmtree(next(seen.folder.glob("counts-*")))
        together = count_routing(replace(seen, group=group))
    for name in ("tokens", "used", "gate"):
        values, sums = getattr(apart, name), getattr(together, name)
        expected = np.zeros_like(sums)
        for document, one in enumerate(group):
            expected[2 * one : 2 * one + 2] += values[2 * document : 2 * document + 2]
        np.testing.assert_allclose(sums, expected, rtol=1e-6)
    assert [int(d) for d in together.domain[::2]] == [
        seen.domain[group.index(one)] for one in range(len(numbers))
    ]


@PASSES
@given(SEEDS)
def test_a_weight_of_two_is_a_document_twice(seed):
    with random_pass(seed) as (seen, _):
        counts = count_routing(seen)
        rows = np.arange(len(counts.domain))
        twice = counts._take(np.concatenate([rows, rows[:1]]))
        weight = np.ones(len(rows))
        weight[0] = 2
        for one, other in (("of", ("one",)), ("all_but", ("two",)), ("total", ())):
            a = getattr(counts.resampled(weight), one)(*other)
            b = getattr(twice, one)(*other)
            np.testing.assert_allclose(a.used, b.used)
            np.testing.assert_allclose(a.gate_mean, b.gate_mean)
            assert a.tokens == b.tokens


def test_a_phase_without_tokens_is_refused():
    for seed in range(20):
        with random_pass(seed) as (seen, rows):
            counts = count_routing(seen)
            answered = {row.domain for row in rows if row.generated}
            missing = [domain for domain in seen.domains if domain not in answered]
            if missing:
                with pytest.raises(
                    ValueError, match=f"domains without a generated token: {missing[0]}"
                ):
                    counts.in_phase("generated")
                return
    raise AssertionError("no seed gave a domain without an answer")


def test_counts_are_kept_and_mapped():
    with random_pass(1) as (seen, _):
        first = count_routing(seen)
        for path in seen.folder.glob("batch-*"):
            path.unlink()
        again = count_routing(seen)
        assert isinstance(again.used, np.memmap)
        np.testing.assert_array_equal(first.used, again.used)
        with pytest.raises(ValueError, match=r"batch-000000\.safetensors: cannot be read"):
            count_routing(seen, 0.5)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_case_09_stored_counts_that_were_damaged_are_counted_again(data):
    with random_pass(3) as (seen, _):
        first = count_routing(seen)
        before = {name: np.array(getattr(first, name)) for name in ("tokens", "used", "gate")}
        (folder,) = seen.folder.glob("counts-*")
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        with damaged(path, data):
            again = count_routing(seen)
            for name, values in before.items():
                np.testing.assert_array_equal(getattr(again, name), values)


def test_sums_of_large_counts_go_by_parts(monkeypatch):
    with random_pass(3) as (seen, _):
        whole = count_routing(seen).total()
        monkeypatch.setattr("dsmoe_eval.experts.counts._VALUES_AT_ONCE", 1)
        parts = count_routing(seen).total()
    for name in ("used", "salient", "gate_mean", "use_mean"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)

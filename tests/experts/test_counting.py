"""Counts by document, phase and token class, against a loop over tokens."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import Marker, count_routing, encode_documents, observe
from dsmoe_eval.experts.scores import dsmoe
from dsmoe_eval.steering import capture_activity, capture_selected, find_neurons

from ..damage import damaged
from ..dense import NEURONS, dense_model
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


def test_counts_of_neurons_equal_brute_force(letters, tmp_path):
    """Eq. 8 by its posteriors too, from tokens whose selection is read one text at a time."""
    texts = {"one": ["abcde", "zyxwvut", "^bcd"], "two": ["qqabc", "aabb^cc"]}
    documents = encode_documents(letters, texts)
    model = dense_model("llama")
    seen = observe(model, documents, tmp_path, saliency_model=model, activity=True, sites=NEURONS)
    assert not seen.has_spread
    counts = count_routing(seen, 0.5)
    saliency = {index: [] for index in range(len(documents))}
    for batch in seen.read():
        assert batch.weights.dtype == torch.bfloat16
        for index, value in zip(batch.document.tolist(), batch.saliency.tolist(), strict=True):
            saliency[index].append(value)
    sites, used = find_neurons(model), np.zeros_like(counts.used)
    active, gate = np.zeros_like(counts.active), np.zeros(counts.gate.shape)
    for index, one in enumerate(documents):
        same = [v for i, d in enumerate(documents) if d.domain == one.domain for v in saliency[i]]
        salient = np.array(saliency[index]) > np.quantile(np.array(same, np.float32), 0.5)
        with capture_selected(sites) as routing, capture_activity(sites) as on, torch.no_grad():
            model(input_ids=torch.tensor([one.tokens]))
        kept = np.flatnonzero(one.kept)
        for place, token in enumerate(kept):
            chosen = routing.indices()[token].numpy()
            for layer, units in enumerate(chosen):
                used[2 * index, int(salient[place]), layer, units] += 1
                gate[2 * index, layer, units] += routing.weights()[token, layer].numpy()
            active[2 * index] += on()[token].numpy()
    np.testing.assert_array_equal(counts.used, used)
    np.testing.assert_array_equal(counts.active, active)
    np.testing.assert_allclose(counts.gate, gate, rtol=1e-2)  # sizes are rounded to bfloat16
    prompts = counts.in_phase("prompt")
    for index, domain in enumerate(texts):
        rows = [2 * i for i, one in enumerate(documents) if one.domain == domain]
        n, n_salient = used[rows].sum((0, 1)), used[rows][:, 1].sum(0)
        tokens = counts.tokens[rows].sum()
        with np.errstate(invalid="ignore"):
            posterior = n / tokens * (n_salient / n - (n - n_salient) / n)
        np.testing.assert_allclose(dsmoe(prompts, domain), np.nan_to_num(posterior), atol=1e-12)
        assert (n.sum(-1) == 3 * tokens).all(), index

"""Counts and means come back from the run's folder as they were, or are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import Marker, RoutingCounts, StreamMeans
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs.learned import kept_counts, kept_means


def job(folder, two=True):
    return SimpleNamespace(folder=RunFolder(folder), roles=SimpleNamespace(are_two=two))


def counts(contribution=None, influence=None):
    draw = np.random.default_rng(0)
    return RoutingCounts(
        domains=("law", "math"), layers=(1, 3), top_k=2, markers=(Marker("?", 5, -1.0),),
        domain=np.array([0, 1, 1]), generated=np.array([False, True, False]),
        weight=np.ones(3), tokens=draw.integers(0, 9, (3, 2)),
        used=draw.integers(0, 9, (3, 2, 2, 4), dtype=np.int32),
        gate=draw.random((3, 2, 4), dtype=np.float32), contribution=contribution,
        marker_tokens=draw.integers(0, 3, (3, 1)),
        marked=draw.integers(0, 3, (3, 1, 2, 4), dtype=np.int32),
        has_saliency=True, spread=draw.random((3, 2)), influence=influence,
    )  # fmt: skip


def means():
    return StreamMeans(("law", "math"), np.array([3.0, 4.0]), np.arange(12.0).reshape(2, 2, 3))


CASES = [
    (kept_counts, counts, "counts"),
    (kept_counts, lambda: counts(np.ones((3, 2, 4), dtype=np.float32)), "counts"),
    (kept_counts, lambda: counts(influence=np.ones((2, 2, 2, 4))), "counts"),
    (kept_means, means, "means"),
]


@pytest.mark.parametrize(("kept", "made", "name"), CASES)
def test_what_was_learned_is_not_learned_again(tmp_path, kept, made, name):
    one, found = made(), kept(job(tmp_path), made)
    again = kept(job(tmp_path), lambda: pytest.fail("learned again"))
    for field in type(one).__slots__:
        for other in (found, again):
            value, expected = getattr(other, field), getattr(one, field)
            assert type(value) is type(expected), field
            np.testing.assert_array_equal(value, expected)
            assert getattr(value, "dtype", None) == getattr(expected, "dtype", None), field
    path = getattr(RunFolder(tmp_path), name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(
        UserError, match=f"{name}.safetensors: is not the file of the run's manifest"
    ):
        kept(job(tmp_path), made)


@pytest.mark.parametrize(("kept", "made", "name"), CASES[1:])
def test_a_learner_that_answers_is_loaded_anyway(tmp_path, kept, made, name):
    kept(job(tmp_path, two=False), made)
    assert not getattr(RunFolder(tmp_path), name).exists()

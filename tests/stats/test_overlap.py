"""The overlap of blind choices, against every choice there is."""

import itertools
from statistics import fmean

import numpy as np
import pytest

from dsmoe_eval.stats import chance_jaccard, expected_jaccard, jaccard


def layer_choices(layer, sizes, units):
    """Every choice of a layer, as the set of its (layer, unit, kind)."""
    for first in itertools.combinations(range(units), sizes[0]):
        rest = [unit for unit in range(units) if unit not in first]
        for second in itertools.combinations(rest, sizes[1]):
            yield {(layer, unit, 0) for unit in first} | {(layer, unit, 1) for unit in second}


def choices(sizes, units):
    layers = [list(layer_choices(place, own, units)) for place, own in enumerate(sizes)]
    return [set().union(*parts) for parts in itertools.product(*layers)]


@pytest.mark.parametrize(
    ("a", "b", "units"),
    [
        ([(2, 0)], [(2, 0)], 4),
        ([(1, 0), (2, 0)], [(2, 0), (1, 0)], 4),
        ([(3, 0), (0, 0)], [(1, 0), (2, 0)], 3),
        ([(1, 2)], [(2, 1)], 4),
        ([(0, 4)], [(2, 1)], 4),
        ([(1, 1), (0, 2)], [(2, 0), (1, 1)], 3),
    ],
)
def test_every_choice_there_is_gives_the_same_mean(a, b, units):
    pairs = itertools.product(choices(a, units), choices(b, units))
    mean = fmean(len(one & other) / len(one | other) for one, other in pairs)
    assert expected_jaccard(a, b, units) == pytest.approx(mean, rel=1e-12)


def test_a_random_draw_of_many_layers_agrees():
    rng, sizes, units = np.random.default_rng(0), [3, 1, 4, 0, 2], 8
    draws = [
        [
            {(layer, int(u)) for layer, n in enumerate(sizes) for u in rng.permutation(units)[:n]}
            for _ in range(2)
        ]
        for _ in range(4000)
    ]
    seen = [jaccard(a, b) for a, b in draws]
    error = np.std(seen) / np.sqrt(len(seen))
    found = expected_jaccard([(n, 0) for n in sizes], [(n, 0) for n in sizes], units)
    assert abs(found - fmean(seen)) < 4 * error


def test_in_one_large_layer_it_is_near_that_of_the_mean_overlap():
    sizes = [(50, 0)]
    assert expected_jaccard(sizes, sizes, 500) == pytest.approx(chance_jaccard(50, 500), abs=2e-3)


def test_all_units_are_always_shared():
    assert expected_jaccard([(4, 0)], [(4, 0)], 4) == 1
    assert expected_jaccard([(1, 0), (0, 0)], [(0, 0), (1, 0)], 4) == 0


def test_the_jaccard_index_by_hand():
    assert jaccard({1, 2, 3}, {2, 3, 4, 5}) == 2 / 5
    assert jaccard({1}, set()) == 0
    with pytest.raises(ValueError, match="both sets are empty"):
        jaccard(set(), set())


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([(1, 0)], [(1, 0), (1, 0)], "same layers"),
        ([(3, 2)], [(1, 0)], "give 0 to 4 units"),
        ([(-1, 0)], [(1, 0)], "give 0 to 4 units"),
        ([(0, 0)], [(0, 0)], "both choices are empty"),
    ],
)
def test_impossible_sizes_are_refused(a, b, words):
    with pytest.raises(ValueError, match=words):
        expected_jaccard(a, b, 4)

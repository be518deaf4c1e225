"""Ranks respect noise, by their definition; every mark is earned and lost by its own figure."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.leaderboards.ranking import Estimate, base_of, is_better, latest, mean_of, rank
from dsmoe_eval.leaderboards.schema import Result
from dsmoe_eval.results.paired import Paired
from dsmoe_eval.stats import PairedCounts, tango_interval

from .conftest import SMALL
from .test_checks import ARM, FIRST, put

MARKS = [
    "probes passed", "placebo flat", "no leakage", "adequate power", "several seeds",
    "complete suite",
]  # fmt: skip


def paired(delta, low, high):
    return Paired(
        n=100, score_a=0.5, score_b=0.5 + delta, ci95=(low, high), p_value=1.0, test="none",
        gained=0, lost=0, mde80=None, clusters=100, answers=None,
    )  # fmt: skip


def altered(submitted, change, variant=None):
    """A submitted run with one variant's result, or every one, changed as the corruptions are."""
    results = dict(submitted.results)
    for name in results if variant is None else [variant]:
        content = {"results": [results[name].model_dump(mode="json", exclude_defaults=True)]}
        change(content)
        results[name] = Result.model_validate_json(json.dumps(content["results"][0]))
    return replace(submitted, results=results)


@pytest.fixture(scope="module")
def pair_of_seeds(run, make_run, file_runs, runs_of, tmp_path_factory):
    return runs_of(file_runs(tmp_path_factory.mktemp("ranked"), run, make_run(seed=1)))


@pytest.fixture(scope="module")
def small(make_run, file_runs, runs_of, tmp_path_factory):
    variants = ("base", "sham", "contrast", "random")
    run = make_run(**(SMALL | {"items": 300}), variants=variants)
    return runs_of(file_runs(tmp_path_factory.mktemp("small"), run))[0]


def row_of(rows, variant):
    (found,) = (row for row in rows if row.variant == variant)
    return found


def test_the_mean_of_normal_estimates_has_the_normal_interval():
    errors, deltas = [0.01, 0.03, 0.02], [0.1, -0.02, 0.04]
    rows = [paired(d, d - 1.96 * e, d + 1.96 * e) for d, e in zip(deltas, errors, strict=True)]
    found = mean_of(rows)
    reach = 1.96 * math.sqrt(sum(e**2 for e in errors)) / 3
    assert found.value == pytest.approx(0.04)
    assert (found.low, found.high) == pytest.approx((0.04 - reach, 0.04 + reach))
    wide = mean_of(rows, independent=False)
    assert (wide.low, wide.high) == pytest.approx((0.04 - 1.96 * 0.02, 0.04 + 1.96 * 0.02))
    assert mean_of([]) is None
    one = mean_of(rows[:1])
    assert (one.low, one.high) == pytest.approx(rows[0].ci95)


def test_the_interval_of_a_mean_covers_it():
    draw, inside, rounds = np.random.default_rng(0), 0, 300
    truth = (0.2 - 0.05 + 0.02 - 0.06) / 2
    for _ in range(rounds):
        rows = []
        for n, gained, lost in ((120, 0.2, 0.05), (300, 0.02, 0.06)):
            g, k, *_ = draw.multinomial(n, [gained, lost, 1 - gained - lost])
            low, high = tango_interval(PairedCounts(n, n // 2, int(g), int(k)))
            rows.append(paired((g - k) / n, low, high))
        found = mean_of(rows)
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / rounds <= 0.98  # 95 %, within 2.4 standard errors


def test_equals_are_told_apart_as_seldom_as_the_level_says():
    draw = np.random.default_rng(1)
    values = draw.normal(0, [0.01, 0.03], size=(4000, 2))
    reach = 1.96 * np.array([0.01, 0.03])
    pairs = [[Estimate(v, v - r, v + r) for v, r in zip(row, reach, strict=True)] for row in values]
    better = sum(is_better(*pair) for pair in pairs) / len(pairs)
    worse = sum(is_better(*pair[::-1]) for pair in pairs) / len(pairs)
    assert better == pytest.approx(0.025, abs=0.008)
    assert worse == pytest.approx(0.025, abs=0.008)


FIGURE = st.tuples(st.integers(-30, 30), st.integers(1, 15), st.integers(1, 15))


@settings(max_examples=25)
@given(st.lists(FIGURE, min_size=1, max_size=5))
def test_a_rank_is_one_more_than_the_rows_that_are_better(small, figures):
    submitted_runs = []
    for number, (value, down, up) in enumerate(figures):
        value, down, up = value / 100, down / 100, up / 100
        row = {"score_a": 0.5, "score_b": 0.5 + value, "test": "none"}
        row |= {"ci95": [value - down, value + up]}
        change = put(f"{ARM}.over_placebo", lambda old, row=row: old | row)
        folder = Path("subjects") / f"model-{number}" / "0"
        submitted_runs.append(replace(altered(small, change, "contrast"), folder=folder))
    rows = [row for row in rank(submitted_runs) if row.rank is not None]
    assert len(rows) == len(figures)
    values = [row.over_placebo.value for row in rows]
    assert values == sorted(values, reverse=True)
    by_model = {row.submitted.folder.parts[1]: row.rank for row in rows}
    for number, (value, _, up) in enumerate(figures):
        better = 0
        for other, down, _ in figures:  # the interval of the difference, MOVER's lower end
            better += (other - value) - math.sqrt(down**2 + up**2) > 1e-9
        nearly = any(abs(o - value - math.sqrt(d**2 + up**2)) <= 1e-9 for o, d, _ in figures)
        assert nearly or by_model[f"model-{number}"] == 1 + better


def test_what_is_ranked_and_why_the_rest_is_not(pair_of_seeds):
    rows = rank(pair_of_seeds)
    assert [(row.variant, row.rank, row.unranked) for row in rows] == [
        ("contrast", 1, ""),
        ("sft-lora", None, "no placebo"),
        ("random", None, "a control"),
        ("wrong-domain", None, "a control"),
        ("base", None, "base"),
    ]
    contrast, tuned = rows[:2]
    assert contrast.non_inferior
    assert contrast.trusted
    assert not tuned.non_inferior  # 4 points down
    assert set(contrast.by_domain) == {"math", "law"}
    own = [row.delta for row in contrast.by_domain.values()]
    assert contrast.gain.value == pytest.approx(sum(own) / 2) == pytest.approx(0.18)
    assert contrast.over_placebo.value == pytest.approx(0.19)


def test_what_does_not_hold_is_not_ranked(small):
    change = put(f"{ARM}.non_targets.non_inferiority.p_value", 0.1)
    row = row_of(rank([altered(small, change, "contrast")]), "contrast")
    assert (row.rank, row.unranked) == (None, "non-targets not shown non-inferior")
    assert row_of(rank([small]), "contrast").rank == 1


def test_a_smoke_test_is_not_ranked_and_gives_way_to_a_whole_run(small):
    smoke_test = altered(small, put(f"{FIRST}.header.run.limit", 8))
    assert row_of(rank([smoke_test]), "contrast").unranked == "a smoke test"
    for order in ([smoke_test, small], [small, smoke_test]):
        assert set(map(id, latest(order).values())) == {id(small)}


def test_the_latest_run_of_each_variant_is_shown(small):
    later = replace(altered(small, put(f"{FIRST}.header.seed", 1)), run_id="1" * 16)
    del later.results["random"]
    shown = latest([small, later])
    assert {name: one.header.seed for (_, name), one in shown.items()} == {
        "base": 1, "sham": 1, "contrast": 1, "random": 0,
    }  # fmt: skip


def marks(submitted, every=None, variant="contrast"):
    row = row_of(rank(every or [submitted]), variant)
    return {mark.name: mark for mark in row.marks}


def test_all_marks_can_be_earned(pair_of_seeds):
    found = marks(None, pair_of_seeds)
    assert list(found) == MARKS
    assert all(mark.earned and mark.words for mark in found.values())
    assert found["several seeds"].words == "seeds 0, 1"


PLACEBO = {"gained": 60, "lost": 3, "p_adjusted": 0.01}
LOST = [
    ("probes passed", "contrast", put(f"{ARM}.probe.null_max_difference", 0.1), "differs by 0.1"),
    ("probes passed", "contrast", put("results.0.arms.1.probe.logit_max_change", 0.0), "up to 0"),
    ("probes passed", "sham", put(f"{ARM}.target_result.gained", 1), "sham on math"),
    ("placebo flat", "random", put(f"{ARM}.target_result", lambda old: old | PLACEBO),
     "random improves math"),
    ("no leakage", None, put(f"{FIRST}.leakage.pairs", 2), "leaked_items is 2"),
    ("adequate power", "contrast", put(f"{ARM}.target_result.mde80", 0.1001), "on math is 0.1"),
    ("adequate power", "contrast", put("results.0.arms.1.target_result.mde80", None), "on law"),
    ("complete suite", None, put(f"{FIRST}.header.suite_targets", ["math", "law", "art"]), "art"),
    ("complete suite", None, put(f"{FIRST}.header.suite_tasks", ["new_task"]), "new_task"),
    ("complete suite", None, put(f"{FIRST}.header.run.limit", 8), "a smoke test"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "variant", "change", "words"), LOST)
def test_a_mark_is_lost_by_the_figure_that_decides_it(pair_of_seeds, name, variant, change, words):
    one, other = pair_of_seeds
    changed = altered(one, change, variant)
    row = row_of(rank([other, changed]), "contrast")
    if changed.header.smoke_test:  # the whole run is shown
        row = row_of(rank([changed]), "contrast")
    lost = [mark for mark in row.marks if not mark.earned]
    expected = {name} | ({"several seeds"} if changed.header.smoke_test else set())
    assert {mark.name for mark in lost} == expected
    assert words in next(mark.words for mark in lost if mark.name == name)
    assert not row.trusted


def test_adequate_power_ends_at_ten_points(pair_of_seeds):
    one, other = pair_of_seeds
    enough = altered(one, put(f"{ARM}.target_result.mde80", 0.1), "contrast")
    assert marks(None, [other, enough])["adequate power"].earned


def test_one_seed_is_not_several(pair_of_seeds):
    found = marks(pair_of_seeds[0])["several seeds"]
    assert (found.earned, found.words) == (False, "seed 0")
    limited = altered(pair_of_seeds[1], put(f"{FIRST}.header.run.limit", 8))
    assert not marks(None, [limited, pair_of_seeds[0]])["several seeds"].earned


def test_what_has_no_placebo_cannot_have_a_flat_one(pair_of_seeds):
    found = marks(None, pair_of_seeds, "sft-lora")
    assert {name for name, mark in found.items() if not mark.earned} == {"placebo flat"}
    assert "no placebo" in found["placebo flat"].words


def test_bases_score_of_a_target(pair_of_seeds):
    assert base_of(pair_of_seeds[0], "law").task == "law_task"

"""Pictures of any size: no label lies on another one or leaves the picture, and none is tiny."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from dsmoe_eval.reports import base_figures, figures, study_figures
from dsmoe_eval.reports.page import Forest, Interval
from dsmoe_eval.reports.run_arms import targets_of
from dsmoe_eval.results.schema import Base

DOMAINS = """mathematics computer_science chemistry law engineering other economics health
psychology business biology philosophy physics history""".split()
VARIANTS = ("contrast", "risk-difference+bias+matched")
SMALLEST = 8  # points, in a picture that is at most as wide as a page
WIDEST = 16  # inches


@pytest.fixture
def check(tmp_path, monkeypatch):
    """`check(draw)` draws a picture and looks at every text that is really drawn."""
    drawn = {}

    def draw(text, renderer, *args, **keys):
        # Layouts are found by drawing to a renderer whose methods are replaced by nothing.
        if "draw_text" not in vars(renderer) and text.get_visible() and text.get_text().strip():
            drawn[text] = text.get_window_extent(renderer), renderer
        return original(text, renderer, *args, **keys)

    original = Text.draw
    monkeypatch.setattr(Text, "draw", draw)
    figures.style()

    def checked(draw):
        drawn.clear()
        draw(tmp_path / "picture.png")
        assert len(drawn) > 3
        for text, (box, page) in drawn.items():
            name = text.get_text()
            assert text.get_fontsize() >= SMALLEST, name
            assert page.width / page.dpi <= WIDEST
            assert min(box.x0, box.y0) >= 0, name
            assert box.x1 <= page.width, name
            assert box.y1 <= page.height, name
        for (one, (box, _)), (other, (also, _)) in combinations(drawn.items(), 2):
            words = f"{one.get_text()!r} and {other.get_text()!r}"
            # Touching edges are no overlap; boxes of letters have some room of their own.
            assert not (
                min(box.x1, also.x1) - max(box.x0, also.x0) > 1
                and min(box.y1, also.y1) - max(box.y0, also.y0) > 1
            ), words
        return [text.get_text() for text in drawn]

    return checked


SIZES = list(product((4, 30, 94), (24, 512), (2, 14)))
# Many panels take seconds to lay out: of those with 14 domains the quick set has one.
SLOW = [
    pytest.param(*size, marks=[pytest.mark.slow] if size[2] > 2 and size != (30, 24, 14) else [])
    for size in SIZES
]


@pytest.mark.parametrize(("layers", "experts", "domains"), SIZES)
def test_case_22_maps_of_experts(check, layers, experts, domains):
    rng = np.random.default_rng(0)
    scores = {
        method: {name: rng.normal(size=(layers, experts)) for name in DOMAINS[:domains]}
        for method in ("risk-difference", "frequency")
    }
    said = check(lambda path: figures.expert_map(scores, range(layers), path))
    assert {"0", f"layer, each with its {experts} experts", *DOMAINS[:domains]} <= set(said)


@pytest.mark.parametrize(("layers", "experts", "domains"), SLOW)
def test_case_22_routing(check, layers, experts, domains):
    rng = np.random.default_rng(0)
    shifts = {
        (variant, target): rng.normal(size=(layers, experts)) / 100
        for variant in VARIANTS
        for target in DOMAINS[:domains]
    }
    names = range(1, 2 * layers, 2)  # every other layer has experts
    said = check(lambda path: figures.routing_shift(shifts, names, path))
    assert {"1", "expert", "layer", *(f"{v},\n{t}" for v, t in shifts)} <= set(said)


EIGHT = (1, 2, 4, 8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    ("variants", "domains", "sizes"),
    [
        (VARIANTS[:1], 1, (1,)), (VARIANTS[:1], 1, EIGHT), (VARIANTS, 2, EIGHT),
        (VARIANTS[:1], 5, EIGHT),
        pytest.param(("a", "b", *VARIANTS), 4, EIGHT, marks=pytest.mark.slow),
        pytest.param(VARIANTS, 14, EIGHT, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_case_22_tradeoff(check, variants, domains, sizes):
    rng = np.random.default_rng(0)
    rows = [
        {
            "variant": variant, "target": target, "expert_count": size, "strength": strength,
            "target_delta": rng.normal() / 10, "non_target_delta": rng.normal() / 10,
            "chosen": (size, strength) == (sizes[-1], 2.0), "layers": [],
        }
        for variant, target in product(variants, DOMAINS[:domains])
        for size, strength in product(sizes, (0.5, 1.0, 2.0))
        if size != sizes[0] or target != DOMAINS[0] or domains == 1
    ]  # fmt: skip
    said = check(lambda path: figures.tradeoff(pd.DataFrame(rows), 0.02, path))
    assert "non-target change,\npercentage points" in said
    assert "target change,\npercentage points" in said
    assert {"1 expert", "chosen", f"{variants[-1]},\n{DOMAINS[domains - 1]}"} <= set(said)
    # A size that the first panel lacks is in the legend all the same, and in its order.
    labels = [text for text in said if "expert" in text]
    assert labels == sorted(labels, key=lambda text: int(text.split()[0]))
    assert len(labels) == len(sizes)


def test_a_tradeoff_of_vectors_names_their_layers(check):
    rows = [
        {"variant": "residual", "target": "math", "expert_count": 0, "layers": layers,
         "strength": strength, "target_delta": strength, "non_target_delta": -strength,
         "chosen": (layers, strength) == ([1], 0.5)}
        for layers in ([1], [1, 2]) for strength in (0.5, 1.0)
    ]  # fmt: skip
    said = check(lambda path: figures.tradeoff(pd.DataFrame(rows), 0.02, path))
    assert {"layer 1", "layers 1, 2", "chosen"} <= set(said)


def test_pictures_of_a_dense_model_speak_of_its_units(check):
    row = {"variant": "dsmoe", "target": "math", "layers": [], "strength": 1.0}
    row |= {"target_delta": 0.1, "non_target_delta": 0.0, "chosen": False}
    rows = pd.DataFrame([row | {"expert_count": count} for count in (1, 8)])
    said = check(lambda path: figures.tradeoff(rows, 0.02, path, units="blocks of 64 neurons"))
    assert {"1 block", "8 blocks"} <= set(said)
    shifts, columns = {("dsmoe", "math"): np.zeros((2, 64))}, "column of 24 neurons, added up"
    said = check(lambda path: figures.routing_shift(shifts, range(2), path, columns))
    assert columns in said
    assert "expert" not in said


@pytest.mark.parametrize("domains", [2, 14])
def test_case_22_forest(check, result, domains):
    arms = [
        result.arms[0].model_copy(update={"target": target, "variant": variant})
        for target in DOMAINS[:domains]
        for variant in VARIANTS
    ]
    many = result.model_copy(update={"targets": tuple(DOMAINS[:domains]), "arms": tuple(arms)})
    assert len(targets_of(many)) == domains
    check(lambda path: figures.forest(many, path))


def test_case_22_forest_of_a_leaderboard(check):
    rows = tuple(
        Interval(f"{variant} (over base)", 0.1, 0.05, 0.15, 12_345, "", model)
        for model in ("Qwen3-30B-A3B-Instruct-2507", "gpt-oss-120b")
        for variant in VARIANTS
    )
    caption = "Filled: ranked, over its placebo. Hollow: not ranked."
    forest = Forest("f", "Gain by variant", caption, "mean gain, percentage points", rows)
    check(lambda path: figures.leaderboard_plot(forest, path))


def existence(layers, experts, domains):
    specific = [{"statistic": 3.0 * n, "beyond": {"random": n > 2}} for n in range(1, 5)]
    control = {"by_layer": [experts - 0.5] * layers, "largest_statistic": 7.5, "beyond": 2}
    rows = [
        {
            "domain": name, "documents": 12_345, "specific": specific,
            "by_layer": [experts] * layers,
            "controls": {"random": control, "shuffled": control | {"largest_statistic": None}},
        }
        for name in DOMAINS[:domains]
    ]  # fmt: skip
    model = "Qwen/Qwen3-30B-A3B-Instruct-2507"
    return {
        "model": model, "control_models": 3, "experts": experts,
        "layers": list(range(1, layers + 1)), "domains": rows,
    }  # fmt: skip


@pytest.mark.parametrize(("layers", "experts", "domains"), SIZES)
def test_case_22_existence(check, layers, experts, domains):
    result = existence(layers, experts, domains)
    said = check(lambda path: study_figures.existence_map(result, path))
    assert f"{DOMAINS[domains - 1]} (n = 12,345)" in said
    assert "layer" in said


@pytest.mark.parametrize(("layers", "experts"), product((4, 30, 94), (24, 512)))
def test_case_22_similarity(check, layers, experts):
    row = {"mean": 0.5, "largest": 0.9, "effective_rank": experts / 2}
    series = dict.fromkeys(("experts", "random", "shuffled"), row)
    rows = [{"layer": n, "linear": series, "rbf": series} for n in range(1, layers + 1)]
    result = {"layers": rows, "tokens": 123_456, "experts": experts}
    said = check(lambda path: study_figures.similarity_figure(result, path))
    assert {"1", "layer", f"effective rank, of {experts} experts"} <= set(said)


@pytest.mark.parametrize("methods", [1, 2, 12])
def test_case_22_trial(check, methods):
    gain = {"delta": 0.1, "ci95": (0.05, 0.15), "questions": 12_345}
    value = {"value": 0.5, "ci95": (0.4, 0.6)}
    rows = [
        {
            "method": f"risk-difference-{n}", "agreement_specific": value, "agreement_plain": value,
            "gain": gain, "gain_over_placebo": gain,
        }
        for n in range(methods)
    ]  # fmt: skip
    result = {
        "methods": rows, "chance": 0.1, "experts": 48_128, "domains": DOMAINS, "items": 123_456,
    }  # fmt: skip
    check(lambda path: study_figures.trial(result, path))


@pytest.mark.parametrize("count", [1, 12, 60])
def test_base_scores_of_any_number_of_tasks(check, count):
    """Each task is named; lines of chance are drawn where it is known."""
    rows = [
        Base.model_construct(
            task=f"{DOMAINS[place % 14]}_{place}", n=12000, score=place / count,
            ci95=None if place == 3 else (place / count, (place + 1) / count),
            chance=None if place % 5 == 1 else 0.1, constant=0.12,
        )
        for place in range(count)
    ]  # fmt: skip
    words = check(lambda path: base_figures.base_panel(rows, path))
    assert {f"{row.task} (n = 12,000)" for row in rows} <= set(words)
    assert {"base", "chance", "one answer to all"} <= set(words)

"""A run with vectors in the residual stream: tuned by the plan's rule, controlled, resumed."""

import io
import json

import pytest
from rich.console import Console

from dsmoe_eval.reports.run_settings import settings
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs import profiles as profiles_module
from dsmoe_eval.runs import run
from dsmoe_eval.steering import Profile

QUIET = Console(file=io.StringIO())
TUNING = {"residual": {"depths": [0, 0.1, [0, 1]], "strengths": [0.5, 1]}}


@pytest.fixture(scope="module")
def made(one_split_plan, tmp_path_factory):
    plan = one_split_plan(
        variants=["base", "residual"], controls="full", placebo_draws=2, tuning=TUNING,
        allow_leakage=True,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("run") / "out"
    return plan, run(plan, out, limit=4, device="cpu", console=QUIET)


def test_arms_controls_and_settings(made):
    _, folder = made
    arms = {variant: arm for (variant, _), arm in read_finished(folder.root).arms.items()}
    names = ["", "+matched", "+matched-2", "+wrong", "+sham"]
    assert list(arms) == [f"residual{ending}" for ending in names]
    settings = arms["residual"].settings
    assert (settings.expert_count, settings.activation_share, settings.matching) == (0, None, None)
    assert all(arm.settings.layers == settings.layers for arm in arms.values())
    assert arms["residual+sham"].equal_to_base
    assert arms["residual+sham"].probe.null_max_difference == 0
    learned = arms["residual"].information
    assert (learned.settings, learned.parameters, learned.domain_named) == (4, 0, False)
    assert learned.texts > 0
    assert learned.answers > 0


def test_the_report_names_layers_instead_of_experts(made):
    _, folder = made
    table = settings(read_finished(folder.root).result)
    layers = ", ".join(
        map(str, read_finished(folder.root).arms["residual", "math"].settings.layers)
    )
    assert [[cell.text for cell in row.cells[2:5]] for row in table.rows] == [
        ["-", layers, "-"]
    ] * 5


def test_depths_that_are_the_same_layer_are_tried_once(made):
    _, folder = made
    trials = json.loads(folder.tuning("residual", "math").read_text())["trials"]
    assert [(one["layers"], one["strength"]) for one in trials] == [
        (layers, strength) for layers in ([0], [0, 3]) for strength in (0.5, 1)
    ]


def test_profiles_are_of_the_same_norm(made):
    _, folder = made
    profiles = [Profile.load(path) for path in sorted(folder.root.glob("profiles/*.json"))]
    assert len({one.id for one in profiles}) == 5
    by_method = {one.method: one for one in profiles if one.intervention.strength}
    own, drawn = by_method["mean-difference"], by_method["mean-difference, random_matched"]
    for layer, vector in own.vectors.items():
        norms = [sum(x * x for x in v) ** 0.5 for v in (vector, drawn.vectors[layer])]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert own.source.domain == "math"
    assert by_method["mean-difference, other_domain"].source.domain == "physics"


def test_the_pass_is_read_again_and_made_only_for_such_an_arm(
    made, tmp_path, monkeypatch, one_split_plan
):
    plan, folder = made
    before = (folder.root / "comparisons.json").read_bytes()
    run(plan, folder.root, limit=4, device="cpu", console=QUIET)
    assert (folder.root / "comparisons.json").read_bytes() == before
    monkeypatch.setattr(profiles_module, "average_streams", lambda *_: 1 / 0)
    other = one_split_plan(controls="none", allow_leakage=True)
    run(other, tmp_path / "experts", limit=2, device="cpu", console=QUIET)

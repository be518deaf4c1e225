"""A run on a GPU from end to end: the answers, experts and settings of the same run on a CPU."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.registry import find_card
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs import run
from dsmoe_eval.steering import Profile

pytestmark = pytest.mark.gpu
GPU = "cuda"
# As of two orders of summation in float32: log-likelihoods of some 10, sums of some hundred terms.
CLOSE = 1e-3


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same plan, every kind of variant on one target, on a CPU and on a GPU."""
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan["targets"] = ["biology"]
    plan["variants"] += ["suppress", "rice"]
    strengths = {"bias": [1.0], "reweight": [3.0], "amplify": [1.0]}
    plan["tuning"] = {"expert_counts": [4, 8], "strengths": strengths}
    plan["sft"]["epochs"] = 1
    folder = tmp_path_factory.mktemp("both")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    quiet = Console(quiet=True)
    return [
        run(str(path), folder / device, limit=16, device=device, console=quiet)
        for device in ("cpu", GPU)
    ]


def cells(folder):
    """(variant, target, task) -> identity and rows of each cell."""
    found = {}
    for path in folder.root.glob("cells/*/cell.json"):
        identity = json.loads(path.read_text())["identity"]
        key = identity["variant"], identity["target"], identity["task"]
        found[key] = identity, pd.read_parquet(path.with_name("samples.parquet"))
    return found


def test_the_run_says_where_it_ran(both):
    devices = [{one["device"] for one, _ in cells(folder).values()} for folder in both]
    assert devices == [{"cpu"}, {GPU}]


def test_identification_gives_the_same_scores_and_experts(both):
    cpu, gpu = (json.loads((folder.root / folder.identification).read_text()) for folder in both)
    assert [cpu[key] for key in ("domains", "layers", "tokens")] == [
        gpu[key] for key in ("domains", "layers", "tokens")
    ]
    for method, scores in cpu["scores"].items():
        for domain, expected in scores.items():
            size = np.abs(expected).max()
            np.testing.assert_allclose(gpu["scores"][method][domain], expected, atol=0.01 * size)


def test_the_arms_steer_the_same_experts(both):
    profiles = [
        {path.name.rpartition("--")[0]: Profile.load(path) for path in f.root.glob("profiles/*")}
        for f in both
    ]
    assert profiles[0].keys() == profiles[1].keys()
    for arm, ours in profiles[0].items():
        theirs = profiles[1][arm]
        experts = [{(one.layer, one.expert) for one in each.experts} for each in (ours, theirs)]
        assert experts[0] == experts[1], arm
        assert theirs.intervention.strength == pytest.approx(ours.intervention.strength)


def test_every_option_has_the_log_likelihood_of_a_cpu(both):
    cpu, gpu = map(cells, both)
    assert cpu.keys() == gpu.keys()
    differences = []
    for key, (_, rows) in cpu.items():
        if (
            key[0] == "sft-lora"
        ):  # training sums in another order, and Adam divides by small numbers
            continue
        others = gpu[key][1]
        assert list(rows["item"]) == list(others["item"])
        for a, b in zip(rows["loglikelihoods"], others["loglikelihoods"], strict=True):
            differences += np.abs(np.asarray(a, float) - np.asarray(b, float)).tolist()
    assert len(differences) > 1000
    assert np.mean(np.array(differences) > CLOSE) <= 0.001  # where two experts are all but equal


def test_sham_is_base_and_steering_is_not(both):
    arms = {arm.variant: arm for arm in read_finished(both[1].root).result.arms}
    assert arms["sham"].equal_to_base
    for path in both[1].root.glob("cells/*/cell.json"):
        cell = json.loads(path.read_text())
        if cell["probe"] is not None:
            assert cell["probe"]["null_max_difference"] == 0.0
            assert (cell["probe"]["logit_max_change"] > 0) == (
                cell["identity"]["variant"] != "sham"
            )

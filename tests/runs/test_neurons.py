"""A dense model goes the way of a mixture of experts: identified, tested, steered, baked."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from dsmoe_eval.adapters.steered_model import SteeredModel
from dsmoe_eval.cli import main
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.reports import render
from dsmoe_eval.results import RunFolder
from dsmoe_eval.runs import run
from dsmoe_eval.steering import Profile

from ..dense import LAYERS, NEURONS, WIDTH, dense_model, neuron_profile, saved_dense


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "model"
    saved_dense("llama", folder)
    return folder


def said(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_a_dense_model_without_the_option_is_told_of_it(folder):
    with pytest.raises(UserError, match="--sites neurons, in a plan `sites: neurons`"):
        load_engine(str(folder), device="cpu")
    code, words = said("identify", folder, "--suite", "lab", "--domain", "math", "--block", 8,
                       "-o", folder / "x.json")  # fmt: skip
    assert code
    assert "--block is for --sites neurons" in words


@pytest.mark.full
@pytest.mark.parametrize("method", ["dsmoe", "lape", "influence", "influence-net"])
def test_identified_and_baked(folder, tmp_path, method):
    path = tmp_path / "profile.json"
    common = ("--suite", "lab", "--domain", "math", "--sites", "neurons", "--limit", 8)
    code, words = said("identify", folder, *common, "--method", method, "--experts", 6,
                       "--observations", tmp_path / "o", "-o", path)  # fmt: skip
    assert (code, "6 neurons of math" in words) == (0, True), words
    assert Profile.load(path).sites == NEURONS
    code, words = said("bake", folder, path, "-o", tmp_path / "baked", "--json")
    assert code == 0, words
    assert json.loads(words[words.index('{"') :])["logit_max_difference"] < 1e-4
    code, words = said("identify", tmp_path / "baked", *common, "--experts", 6,
                       "--observations", tmp_path / "o", "-o", tmp_path / "again.json")  # fmt: skip
    assert code == 0, words


@pytest.mark.vllm
@pytest.mark.full
def test_both_engines_identify_the_same_neurons(folder, tmp_path, monkeypatch):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    for name in ("VLLM_CPU_KVCACHE_SPACE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    common = ("--suite", "lab", "--domain", "math", "--sites", "neurons", "--limit", 8,
              "--method", "risk-difference", "--experts", 6)  # fmt: skip
    chosen = []
    for engine in ("transformers", "vllm"):
        path = tmp_path / f"{engine}.json"
        code, words = said("identify", folder, *common, "--engine", engine, "-o", path,
                           "--observations", tmp_path / engine)  # fmt: skip
        assert code == 0, words
        profile = Profile.load(path)
        assert profile.source.engine == engine
        chosen.append((profile.model, [(one.layer, one.expert) for one in profile.experts]))
    assert chosen[0] == chosen[1]
    code, words = said("probe", folder, "--sites", "neurons", "--vllm-suite", "lab", "--json",
                       "--device", "cpu")  # fmt: skip
    assert code == 0, words
    assert json.loads(words[words.index('{"') :])["engine_routing"]["different"] < 0.001


@pytest.mark.full
def test_probed_and_lent_to_other_harnesses(folder, tmp_path):
    code, words = said("probe", folder, "--sites", "neurons")
    assert code == 0, words
    assert "top-3 of 48 neurons" in words
    assert words.count("passed") == 3  # reweight, amplify and mask
    path = tmp_path / "profile.json"
    path.write_text(neuron_profile(dense_model("llama", 256)).to_json())
    code, words = said("probe", folder, "--profile", path)
    assert code == 0, words
    lent = SteeredModel.open(str(folder), path)
    with lent.answering() as loaded:
        assert loaded.identity.sites == NEURONS


@pytest.mark.full
def test_what_reads_routed_experts_is_refused_by_name(folder, tmp_path):
    common = ("--suite", "lab", "--domain", "math", "--sites", "neurons", "--limit", 8)
    for method, words in {
        "router-lens": "router-lens: of routed experts only",
        "reap": "easy-ep and reap score the outputs of routed experts",
    }.items():
        code, answer = said("identify", folder, *common, "--method", method,
                            "--observations", tmp_path, "-o", tmp_path / "x.json")  # fmt: skip
        assert (code != 0, words in answer) == (True, True), answer


@pytest.mark.full
def test_all_but_the_best_neurons_are_masked_and_baked(folder, tmp_path):
    path = tmp_path / "profile.json"
    code, words = said("identify", folder, "--suite", "lab", "--domain", "math", "--sites",
                       "neurons", "--limit", 8, "--keep", WIDTH - 8, "-o", path,
                       "--observations", tmp_path / "o")  # fmt: skip
    assert (code, f"{8 * LAYERS} neurons masked" in words) == (0, True), words
    code, words = said("bake", folder, path, "-o", tmp_path / "baked", "--json")
    assert code == 0, words
    assert json.loads(words[words.index('{"') :])["logit_max_difference"] < 1e-4


@pytest.mark.full
def test_existence_beside_its_controls(folder, tmp_path):
    code, words = said("existence", folder, "--suite", "lab", "--sites", "neurons", "--limit", 8,
                       "--controls", 1, "--permutations", 199, "--out", tmp_path)  # fmt: skip
    assert code == 0, words
    found = json.loads((tmp_path / "existence.json").read_text())
    assert (found["units"], found["experts"], found["layers"]) == ("neurons", WIDTH, [0, 1, 2])
    assert f"neurons, {LAYERS * WIDTH} in all" in (tmp_path / "existence.md").read_text()


@pytest.mark.full
def test_existence_by_counts_and_by_influence(folder, tmp_path):
    code, words = said("existence", folder, "--suite", "lab", "--sites", "neurons", "--by", "both",
                       "--block", 2, "--limit", 8, "--controls", 1, "--permutations", 199,
                       "--out", tmp_path)  # fmt: skip
    assert code == 0, words
    found = json.loads((tmp_path / "existence.json").read_text())
    assert found["influence"]["form"] == "gradient"  # the forms are one for neurons
    assert len(found["agreement"]) == len(found["counts"]["domains"])


@pytest.mark.full
def test_a_plan_of_neurons_is_run_and_reported(folder, tmp_path, one_split_plan):
    tuning = {"expert_counts": [8], "strengths": {"amplify": [1.0], "reweight": [1.0]}}
    plan = one_split_plan(
        model=str(folder), sites="neurons", neurons={"block": 2}, tuning=tuning, controls="full",
        variants=["base", "dsmoe", "frequency+amplify"], allow_leakage=True, placebo_draws=1,
    )  # fmt: skip
    out = run(plan, tmp_path / "run", limit=6, device="cpu")
    kept = json.loads((out.root / "identification.json").read_text())
    assert (kept["units"], kept["column"]) == ("blocks of 2 neurons", 1)
    assert np.shape(kept["used"][0]) == (LAYERS, WIDTH // 2)
    arms = {arm["variant"]: arm for arm in json.loads(out.comparisons.read_text())["arms"]}
    assert set(arms) == {
        "dsmoe", "dsmoe+matched", "dsmoe+sham", "dsmoe+wrong",
        "frequency+amplify", "frequency+amplify+matched", "frequency+amplify+sham",
        "frequency+amplify+wrong",
    }  # fmt: skip
    said = render(RunFolder(out.root), tmp_path / "page").read_text()
    assert "its blocks of 2 neurons are steered" in said
    assert "Every column is one block." in said
    assert "random blocks matched on layer" in said


@pytest.mark.full
def test_the_effect_of_a_profile_is_predicted_to_first_order(folder, tmp_path):
    path = tmp_path / "profile.json"
    common = ("--suite", "lab", "--limit", 6, "--observations", tmp_path / "o")
    code, words = said("identify", folder, *common, "--domain", "math", "--sites", "neurons",
                       "--method", "influence", "--experts", 6, "-o", path)  # fmt: skip
    assert code == 0, words
    code, words = said("predict", path, *common, "--model", folder, "--json")
    assert code == 0, words
    assert "one forward and backward pass over the former" in words


@pytest.mark.full
def test_what_neurons_do_is_foretold_before_the_test(folder, tmp_path):
    path = tmp_path / "ahead.yaml"
    path.write_text(yaml.safe_dump({
        "name": "ahead", "description": "small", "model": str(folder), "sites": "neurons",
        "suite": "lab", "targets": ["math"], "variants": ["base", "influence+amplify"],
        "controls": "none", "margin": 0.02, "foretell": True,
        "tuning": {"expert_counts": [6], "strengths": {"amplify": [0.5]}},
    }))  # fmt: skip
    out = run(str(path), tmp_path / "run", limit=4, device="cpu")
    (arm,) = json.loads(out.foretold.read_text())["arms"]
    assert arm["variant"] == "influence+amplify"
    first = [one["first_order"] for one in arm["changes"] if one["first_order"] is not None]
    assert first
    assert np.isfinite(first).all()
    assert "Foretold and measured" in render(RunFolder(out.root), tmp_path / "page").read_text()

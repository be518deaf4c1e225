"""The main job: small and quick, interrupted, and whole."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts.tensor_files import read_tensors
from dsmoe_eval.registry import find_card
from dsmoe_eval.results.cells import read_cell, read_samples
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.folder import RunFolder, open_folder
from dsmoe_eval.results.recompute import cell_faults, recompute
from dsmoe_eval.runs import answering as answering_module
from dsmoe_eval.runs import cells, run
from dsmoe_eval.steering import Profile

from ..damage import damaged

QUIET = Console(quiet=True)


RIVALS = ["suppress", "suppress-random", "rice", "steermoe"]


@pytest.fixture(scope="module")
def small_plan(tmp_path_factory):
    """Every variant on one target, with few settings to try and little fine-tuning."""
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan["targets"] = ["biology"]
    plan["variants"] += RIVALS
    strengths = {"bias_sigma": [2.0], "reweight": [3.0], "amplify": [1.0], "force": [0.01]}
    plan["tuning"] = {"expert_counts": [4], "strengths": strengths}
    plan["sft"]["epochs"] = 1
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    return str(path)


@pytest.fixture(scope="module")
def finished(small_plan, tmp_path_factory):
    return run(
        small_plan, tmp_path_factory.mktemp("runs") / "a", limit=8, device="cpu", console=QUIET
    )


def comparisons(folder):
    return folder.comparisons.read_text()


def arms_of(folder):
    return read_finished(folder.root).result.arms


def test_what_a_run_leaves(finished):
    assert [arm.variant for arm in arms_of(finished)] == [
        "sham", "dsmoe", "dsmoe-bias", "contrast", "random", "wrong-domain", "sft-lora", *RIVALS
    ]  # fmt: skip
    assert len(list(finished.root.glob("profiles/*.json"))) == 6 + len(RIVALS)
    assert finished.plan.is_file()
    for arm in arms_of(finished):
        assert arm.target_result.n == 8
        assert arm.non_target_result.n == 8 * 6
        assert {row.domain for row in arm.domains} >= {"math", "law", "arithmetic"}


def test_cells_hold_identity_probes_and_one_row_an_item(finished):
    folders = list(finished.root.glob("cells/*"))
    assert len(folders) == 7 + 7 * (7 + len(RIVALS))
    for folder in folders:
        cell = json.loads((folder / "cell.json").read_text())
        samples = pd.read_parquet(folder / "samples.parquet")
        assert cell["id"] == folder.name
        assert cell["items"] == len(samples) == 8
        assert cell["score"] == samples["score"].mean()
        assert cell["tokens"] > 0
        steered = cell["identity"]["profile"] is not None
        assert (cell["probe"] is not None) == steered
        if steered:
            assert cell["probe"]["null_max_difference"] == 0.0
        if steered and cell["identity"]["variant"] != "sham":
            assert cell["probe"]["logit_max_change"] > 0


def test_scores_follow_from_the_rows(finished):
    """An independent reading: the answer is gold exactly where the score is 1."""
    for path in finished.root.glob("cells/*/samples.parquet"):
        samples = pd.read_parquet(path)
        assert ((samples["answer"] == samples["gold"]).astype(int) == samples["score"]).all()
        for row in samples.itertuples():
            if len(row.options):
                assert row.answer == row.options[row.loglikelihoods.argmax()]


def test_sham_equals_base_on_every_item(finished):
    (sham,) = [arm for arm in arms_of(finished) if arm.variant == "sham"]
    assert sham.equal_to_base
    assert sham.target_result.gained == sham.target_result.lost == 0


def test_controls_take_the_settings_of_what_they_control(finished):
    result = json.loads(comparisons(finished))
    arms = {arm["variant"]: arm for arm in result["arms"]}
    for control in ("random", "wrong-domain"):
        for key in ("expert_count", "strength", "qualified_on_tuning"):
            assert arms[control]["settings"][key] == arms["contrast"]["settings"][key]
    assert arms["sham"]["settings"]["strength"] == 0.0
    stored = json.loads((finished.root / finished.identification).read_text())
    sigmas = dict(zip(stored["layers"], stored["sigmas"], strict=True))
    for variant in ("contrast", "dsmoe-bias", "random"):
        own = arms[variant]["settings"]
        assert (own["unit"], own["strength"]) == ("sigma", 2.0)
        profile = Profile.load(next(finished.root.glob(f"profiles/biology--{variant}--*.json")))
        assert dict(profile.intervention.sigmas) == sigmas
        shifts = [2 * sigmas[layer] for layer in profile.by_layer()]
        assert own["log_odds"] == [min(shifts), max(shifts)]
    assert arms["dsmoe"]["settings"]["unit"] == "odds"
    assert arms["dsmoe"]["settings"]["log_odds"] is None
    profiles = {
        variant: Profile.load(next(finished.root.glob(f"profiles/biology--{variant}--*.json")))
        for variant in ("contrast", "random", "wrong-domain", "sham")
    }
    pairs = {v: {(e.layer, e.expert) for e in p.experts} for v, p in profiles.items()}
    assert pairs["sham"] == pairs["contrast"]
    assert not pairs["random"] & pairs["contrast"]
    assert profiles["wrong-domain"].source.domain == "physics"


def test_a_second_start_does_nothing_and_changes_nothing(finished, small_plan, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("work was done twice")

    before = comparisons(finished)
    monkeypatch.setattr(answering_module, "run_cell", never)
    monkeypatch.setattr("dsmoe_eval.tasks.outcomes.score_tasks", never)
    monkeypatch.setattr("dsmoe_eval.experts.observations.Saliency.__call__", never)
    run(small_plan, finished.root, limit=8, device="cpu", console=QUIET)
    assert comparisons(finished) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 20])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    finished, small_plan, tmp_path, monkeypatch, moment
):
    honest, calls = cells.run_cell, []

    def interrupt(*args):
        calls.append(1)
        if len(calls) > moment:
            raise KeyboardInterrupt
        honest(*args)

    with monkeypatch.context() as patch:
        patch.setattr(answering_module, "run_cell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(small_plan, tmp_path / "b", limit=8, device="cpu", console=QUIET)
    again = run(small_plan, tmp_path / "b", limit=8, device="cpu", console=QUIET)
    assert comparisons(again) == comparisons(finished)


def test_its_answers_give_its_result_again(finished):
    """Also where several tasks are of the target's domain, which its arms do not answer."""
    result = recompute(finished)
    assert result == read_finished(finished.root).result
    assert list(cell_faults(finished, result)) == []


@pytest.fixture(scope="module")
def processes():
    """Makes processes, forked off one that has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dsmoe_eval.runs.run", "dsmoe_eval.engines.transformers.lm"])
    return context


@pytest.mark.slow
@pytest.mark.parametrize("files", [1, 15])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    finished, small_plan, tmp_path, processes, files
):
    """Killed wherever it is when so many files are there; all of them are some 140."""
    folder = tmp_path / "c"
    settings = {"limit": 8, "device": "cpu"}
    process = processes.Process(target=run, args=(small_plan, folder), kwargs=settings)
    process.start()
    # os.walk, unlike rglob, bears folders that vanish: cells are written aside and then renamed.
    while process.is_alive() and sum(len(names) for _, _, names in os.walk(folder)) < files:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = run(small_plan, folder, console=QUIET, **settings)
    assert comparisons(again) == comparisons(finished)


@pytest.mark.slow
def test_another_limit_on_the_same_folder_is_refused(finished, small_plan):
    with pytest.raises(UserError, match="differs in limit"):
        run(small_plan, finished.root, limit=9, device="cpu", console=QUIET)


def test_a_prompt_that_is_too_long_is_told_before_anything_is_done(
    small_plan, tmp_path, monkeypatch
):
    from dsmoe_eval.engines.transformers import lm as transformers

    monkeypatch.setattr(transformers, "positions", lambda _: 5)
    with pytest.raises(UserError, match=r"task 'lab_\w+': a prompt of \d+ tokens .* 5 positions"):
        run(small_plan, tmp_path / "run", limit=3, device="cpu", console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def control_plan(tmp_path):
    """The lab's plan without the arms that its control does not need, and one setting to try."""
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan["variants"] = ["base", "sham", "contrast", "random", "sft-lora"]
    plan["tuning"] = {"expert_counts": [24], "strengths": {"bias": [1.7183]}}
    path = tmp_path / "control.yaml"
    path.write_text(yaml.safe_dump(plan))
    return str(path)


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, marks=pytest.mark.slow, id="its-arms"),
        pytest.param(True, marks=pytest.mark.full, id="whole-plan"),
    ],
)
def test_the_positive_control_shows_its_known_effect(tmp_path, control_plan, whole):
    """lab-poly is the harness's positive control: every item of the test split."""
    plan = "lab" if whole else control_plan
    folder = run(plan, tmp_path / "lab", device="cpu", console=QUIET)
    arms = read_finished(folder.root).arms
    targets = sorted({target for _, target in arms})
    assert len(targets) == 4

    def improved(variant):
        results = [arms[variant, target].target_result for target in targets]
        return [one.delta > 0 and one.p_adjusted < 0.05 for one in results]

    assert sum(improved("contrast")) >= 3
    assert not any(improved("random"))
    assert all(improved("sft-lora"))
    for target in targets:
        assert arms["contrast", target].non_target_result.non_inferiority.non_inferior
        assert arms["sham", target].equal_to_base


@pytest.fixture(scope="module")
def finished_copy(finished, tmp_path_factory):
    return RunFolder(shutil.copytree(finished.root, tmp_path_factory.mktemp("copy") / "run"))


def _goes_on(folder):
    return open_folder(folder.root, "", json.loads(IDENTITIES[folder.root])).root


IDENTITIES = {}
"""Folder -> its `run.json`, before anything was damaged."""


def _readers(folder, path):
    """What commands read of a finished run: all of it, and what this file is a part of."""
    readers = [_goes_on, lambda folder: read_finished(folder.root).result]
    kind, *_ = path.relative_to(folder.root).parts
    if kind == "cells":
        readers += [
            lambda folder: read_cell(folder, path.parent.name),
            lambda folder: read_samples(folder, path.parent.name).to_json(),
        ]
    elif path.suffix == ".safetensors" and kind == "observations":
        readers.append(lambda _: {n: v.tolist() for n, v in read_tensors(path).items()})
    elif kind in ("tuning", "routing", "profiles", "adapters", "identification.json"):
        readers.append(lambda folder: folder.read(path))
    return readers


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_case_09_any_damage_of_a_finished_run_is_noticed_or_harmless(finished_copy, data):
    folder = finished_copy
    IDENTITIES.setdefault(folder.root, folder.identity.read_text())
    kinds = {}
    for path in sorted(path for path in folder.root.rglob("*") if path.is_file()):
        kinds.setdefault(path.relative_to(folder.root).parts[0], []).append(path)
    path = data.draw(st.sampled_from(kinds[data.draw(st.sampled_from(sorted(kinds)))]))
    readers = _readers(folder, path)
    before = [read(folder) for read in readers]
    with damaged(path, data):
        for read, value in zip(readers, before, strict=True):
            try:
                assert read(folder) == value
            except (UserError, ValueError) as error:
                assert path.name in str(error)  # noqa: PT017 - harmless or noticed

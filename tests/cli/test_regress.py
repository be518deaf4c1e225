"""Regression over releases as a user starts it: on the embedded model, with damaged routers."""

import json
import shutil

import jsonschema
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from dsmoe_eval.cli import main
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.schemas import schemas

from ..leaderboards.conftest import SMALL

KNOWN = ("base", "contrast", "random")


def regress(*arguments):
    done = CliRunner().invoke(main, ["--log-level", "error", "regress", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done


def damaged_routers(folder):
    """Copy lab-poly to a folder, with the rows of each router in another order."""
    shutil.copytree(EMBEDDED_MODELS["lab-poly"], folder)
    weights, draw = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in sorted(name for name in weights if name.endswith("mlp.gate.weight")):
        rows = torch.randperm(len(weights[name]), generator=draw)
        weights[name] = weights[name][rows].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_plan(path, **changes):
    plan = {
        "name": "cut", "description": "Contrast on one target.", "model": "lab-poly",
        "suite": "lab", "variants": ["base", "contrast"], "targets": ["math"],
        "controls": "none", "margin": 0.02,
        "tuning": {"expert_counts": [8], "strengths": {"bias": [1.7183]}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(plan | changes))
    return path


def test_two_finished_runs_are_compared_and_the_exit_code_is_the_verdict(make_run, tmp_path):
    old = make_run(**SMALL, variants=KNOWN)
    kept = make_run(**SMALL, variants=KNOWN, fingerprint="ef56" * 16)
    lost = make_run(**SMALL, variants=KNOWN, fingerprint="ef56" * 16, target={"random": (0, 0)})
    copies = [shutil.copytree(one, tmp_path / name)
              for one, name in ((old, "old"), (kept, "kept"), (lost, "lost"))]  # fmt: skip
    for run in copies:
        remove_profiles(run)
    out = tmp_path / "out"
    done = regress(copies[0], copies[2], "--out", out)
    assert done.exit_code == 1
    assert (
        "unmet        the gain is not lost: contrast on math: the gain changed by -0.1833"
        in done.output
    )
    assert "  new - old  harms by 18.3 points" in done.output
    assert "note: agreement of routing is not known" in done.output
    assert json.loads((out / "gate" / "verdict.json").read_text())["exit_code"] == 1
    done = regress(copies[0], copies[1], "--out", out, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code in (0, 2)
    assert found["verdict"]["exit_code"] == done.exit_code
    written = json.loads((out / "regression.json").read_text())
    assert written == found["regression"]
    jsonschema.validate(written, json.loads(schemas()["regression.schema.json"]))
    assert regress(copies[0], copies[0], "--out", out).exit_code == 0
    assert regress(copies[0], "lab-poly", "--out", out).exit_code == 3
    assert not (out / "gate" / "verdict.json").exists()
    assert not (out / "regression.json").exists()


def remove_profiles(root):
    """Forget the profiles that runs by chance name and do not have."""
    from ..recorded import record

    data = json.loads((root / "comparisons.json").read_text())
    for arm in data["arms"]:
        arm["profile"] = None
    (root / "comparisons.json").write_text(json.dumps(data))
    record(root)


def test_runs_are_not_written_into_and_their_plan_is_an_empty_object(make_run, tmp_path):
    root = make_run(**SMALL)
    done = regress(root, root, "--out", root)
    assert done.exit_code == 3
    assert "is the folder of a run; name another one with --out" in done.output
    assert json.loads(regress(root, root, "--dry-run", "--json").stdout) == {}


def test_the_plan_is_shown_first(tmp_path):
    plan = write_plan(tmp_path / "cut.yaml")
    done = regress("lab-poly", "lab-poly", "--plan", plan, "--dry-run", "--json", "--limit", "4")
    assert done.exit_code == 0, done.output
    assert [model["model"] for model in json.loads(done.stdout)["models"]] == ["lab-poly"] * 2


def test_a_policy_is_read_before_a_model(tmp_path):
    done = regress(
        "lab-poly", "lab-poly", "--plan", "lab", "--policy", "no-such", "--out", tmp_path
    )
    assert (done.exit_code, "no policy 'no-such'" in done.output) == (3, True)


@pytest.mark.slow
def test_both_models_are_run_and_found_again(tmp_path):
    new = damaged_routers(tmp_path / "damaged")
    plan, out = write_plan(tmp_path / "cut.yaml"), tmp_path / "out"
    given = ("lab-poly", new, "--plan", plan, "--out", out, "--device", "cpu", "--limit", 6)
    done = regress(*given)
    assert done.exit_code == 1, done.output  # a smoke test is no evidence
    assert "unmet        the whole run" in done.output
    found = json.loads((out / "regression.json").read_text())
    routing = found["routing"]
    assert routing["shared"] < 0.25
    assert routing["layers"] == [0, 1, 2, 3]
    assert found["arms"][0]["experts"]["old"] == 8
    for side in ("old", "new"):
        assert (out / side / "report" / "report.md").is_file()
    hashes = found["old"]["root_hash"], found["new"]["root_hash"]
    again = regress(*given)  # nothing is left to do
    found = json.loads((out / "regression.json").read_text())
    assert (again.exit_code, found["old"]["root_hash"], found["new"]["root_hash"]) == (1, *hashes)
    other = regress(new, *given[1:])
    assert (other.exit_code, "differs in" in other.output) == (3, True)
    known = regress(out / "old", *given[1:])
    assert (known.exit_code, "the gain is kept" in known.output) == (1, True)


@pytest.mark.full
def test_damaged_routers_fail_and_the_same_model_passes(tmp_path):
    """Contrast improves mathematics on lab-poly by 11 points; without its routers it does not."""
    new = damaged_routers(tmp_path / "damaged")
    tuned = {"expert_counts": [24], "strengths": {"bias": [1.7183]}}  # as the plan lab chooses
    plan, out = write_plan(tmp_path / "cut.yaml", tuning=tuned), tmp_path / "out"
    done = regress("lab-poly", new, "--plan", plan, "--out", out, "--device", "cpu")
    found = json.loads((out / "regression.json").read_text())
    (arm,) = found["arms"]
    assert (arm["improved_old"], arm["improved_new"]) == (True, False)
    assert done.exit_code == 1
    assert arm["gain"]["verdict"] == "harms"
    same = regress(out / "old", out / "old", "--out", tmp_path / "same")
    assert same.exit_code == 0, same.output

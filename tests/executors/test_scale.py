"""A plan on paper: makespans, the critical path, and what could not be counted."""

import dataclasses
import json

import pytest

from dsmoe_eval.cli import main
from dsmoe_eval.executors.scale import on_paper
from dsmoe_eval.runs import estimate


@pytest.fixture
def found(lab_estimate):
    return lab_estimate


def test_more_gpus_end_earlier_until_they_do_not(found):
    scale = on_paper("lab", found, [1, 4, 1000])
    one, four, many = scale.makespans
    assert [row.gpus for row in scale.makespans] == [1, 4, 1000]
    assert one.hours > four.hours > many.hours == scale.least.hours
    work = sum(model.gpu_hours for model in scale.models)
    loads = sum(model.critical["load"] for model in scale.models)
    assert one.hours == pytest.approx(work + loads)  # each model in turn
    assert one.utilisation == pytest.approx(work / (work + loads))
    assert many.hours >= max(model.critical_hours for model in scale.models)
    assert scale.critical.model == "gpt-oss-20b"  # it thinks before it answers
    assert scale.enough.hours <= 1.05 * scale.least.hours
    assert scale.enough.gpus < 1000
    assert (scale.left_out, scale.unknown_tasks, scale.unknown_share) == ({}, (), 0)
    assert [one.model for one in scale.models] == [one.model for one in found.models]


def test_what_cannot_be_counted_is_named(found):
    models = [
        dataclasses.replace(found.models[0], model=name)
        for name in ("organisation/unknown", "deepseek-moe-16b-base", "gpt-oss-120b", "lab-poly")
    ]
    hidden = dataclasses.replace(found.tasks[0], prompt_tokens=None)
    part = dataclasses.replace(found, models=tuple(models), tasks=(hidden, *found.tasks[1:]))
    scale = on_paper("lab", part, [1])
    assert [model.model for model in scale.models] == ["lab-poly"]
    for name, words in {
        "organisation/unknown": "no known size",
        "deepseek-moe-16b-base": "transformers has no code",
        "gpt-oss-120b": "give --device auto",
    }.items():
        assert words in scale.left_out[name]
    assert scale.unknown_tasks == (hidden.task,)
    assert 0 < scale.unknown_share < 1
    spread = on_paper("lab", part, [1, 2], "auto")
    assert {model.model: model.gpus for model in spread.models} == {
        "gpt-oss-120b": 2, "lab-poly": 1,
    }  # fmt: skip
    assert spread.makespans[0].hours is None  # a worker of gpt-oss-120b has no room
    assert spread.makespans[1].hours > 0


def test_nothing_is_made_up_where_no_task_is_known(found):
    unknown = tuple(dataclasses.replace(task, prompt_tokens=None) for task in found.tasks)
    scale = on_paper("lab", dataclasses.replace(found, tasks=unknown), [8])
    assert (scale.makespans, scale.enough, scale.least, scale.models) == ((), None, None, ())
    assert scale.unknown_share == 1


def test_the_command_shows_it(found, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "estimate", lambda *_: found)
    main(["run", "lab", "--dry-run", "--gpus", "2", "--gpus", "8", "--json"])
    said = json.loads(capsys.readouterr().out)["scale"]
    assert [row["gpus"] for row in said["makespans"]] == [2, 8]
    assert said["models"][0]["critical"]["compare"] == pytest.approx(300 / 3600)
    longest = max(said["models"], key=lambda one: sum(one["critical"].values()))
    assert said["critical_path"]["model"] == longest["model"]
    assert said["critical_path"]["hours"] == pytest.approx(sum(longest["critical"].values()))
    assert any("not measured, assumed" in one for one in said["assumptions"])
    main(["run", "lab", "--dry-run", "--gpus", "2"])
    said = " ".join(capsys.readouterr().out.split())
    assert "critical path: gpt-oss-20b, in hours: load" in said
    for wrong in (["--gpus", "2"], ["--dry-run", "--gpus", "2", "--device", "cpu"]):
        with pytest.raises(SystemExit):
            main(["run", "lab", *wrong])
        assert "--gpus goes with --dry-run" in capsys.readouterr().err

"""The questions on which a profile's effect is foretold: complete, named where not, or refused."""

import pytest
import yaml

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import ChosenExpert, Intervention, ModelIdentity, Profile, Source
from dsmoe_eval.studies.questions import load_questions


def profile(domain, strength=1.0):
    return Profile(
        model=ModelIdentity(name="m", fingerprint="0", routers="0", layers=(0,), experts=4),
        method="m",
        experts=(ChosenExpert(layer=0, expert=1, score=1.0),),
        intervention=Intervention(kind="bias", strength=strength),
        source=Source(suite=None, domain=domain, split=None, items=()),
    )


def test_they_are_those_of_the_target_and_of_all_non_targets():
    found, suite = load_questions("lab", profile("math"), 2), load_suite("lab")
    assert found.parts["target"] == (suite.target_task("math").name,)
    others = found.parts["non-targets"]
    assert set(others) == {task.name for task in suite.non_target_tasks("math")}
    assert found.without == ()
    for split in ("identification", "tuning", "test"):
        assert found.items(others, split) == [2] * 6
        assert found.answers(split) == 14


def test_tasks_without_such_items_are_named(tmp_path):
    text = (load_suite("lab").model_dump(mode="json", exclude={"tasks_dir"})) | {"name": "own"}
    for task in text["tasks"]:
        if task["name"] == "lab_law_named":
            task |= {"roles": ["non-target"], "splits": {"test": "test"}}

    path = tmp_path / "own.yaml"
    text["tasks_dir"] = str(load_suite("lab").tasks_dir)
    path.write_text(yaml.safe_dump(text))
    found = load_questions(str(path), profile("math"), 1)
    assert found.without == ("lab_law_named",)
    assert "lab_law_named" not in found.parts["non-targets"]


def test_what_cannot_be_foretold_is_refused():
    with pytest.raises(UserError, match="changes nothing"):
        load_questions("lab", profile("math", 0.0))
    with pytest.raises(UserError, match=r"of domain 'x', which is no target of suite 'lab'"):
        load_questions("lab", profile("x"))
    with pytest.raises(UserError, match=r"the task of law, has no items in the identification"):
        load_questions("smol", profile("law"), 1)

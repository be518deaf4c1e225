"""The stored predictions: read with their hash, and refused where they were changed."""

import hashlib
import json

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.foretold import Foretold, check_foretold, read_foretold

CHANGE = {
    "task": "questions", "outcome": "score", "n": 20, "clusters": 20, "test_clusters": 30,
    "gain": 0.1, "ci95": [-0.1, 0.3], "first_order": None,
}  # fmt: skip
CONTENT = {
    "schema_version": 1,
    "form": "gradient",
    "arms": [
        {"variant": "contrast", "target": "law", "profile": "0" * 16, "changes": [CHANGE],
         "without": ["others"]}
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path)
    made.write_json(made.foretold, CONTENT)
    return made


def test_it_is_read_with_its_hash(folder):
    found = read_foretold(folder)
    assert found.digest == hashlib.sha256(folder.foretold.read_bytes()).hexdigest()
    assert found.arm("contrast", "law").change("questions", "score").gain == 0.1
    assert found.arm("contrast", "law").change("questions", "gold_logprob") is None
    assert found.arm("sham", "law") is None
    check_foretold(folder, found)
    stored = Foretold.model_validate_json(found.model_dump_json())
    assert stored == found


def test_there_is_none_of_a_plan_without_foretell(tmp_path):
    assert read_foretold(RunFolder(tmp_path)) is None


def test_a_result_that_lost_the_predictions_of_its_plan_is_refused(folder):
    folder.foretold.unlink()
    folder.write_json(folder.identity, {"plan": {"foretell": False}})
    check_foretold(folder, None)
    folder.write_json(folder.identity, {"plan": {"foretell": True}})
    with pytest.raises(UserError, match=r"comparisons\.json: has no predictions, which its plan"):
        check_foretold(folder, None)


def test_a_changed_file_is_noticed_by_the_manifest(folder):
    text = folder.foretold.read_text()
    folder.foretold.write_text(text.replace("0.1", "0.2", 1))
    with pytest.raises(UserError, match=r"foretold\.json: is not the file of"):
        read_foretold(folder)


def test_a_change_that_is_in_the_manifest_too_is_noticed_by_the_hash(folder):
    before = read_foretold(folder)
    changed = json.loads(folder.foretold.read_text())
    changed["arms"][0]["changes"][0]["gain"] = 0.2
    folder.write_json(folder.foretold, changed)
    with pytest.raises(UserError, match=r"foretold\.json: .* was changed after the test"):
        check_foretold(folder, before)
    folder.foretold.unlink()
    with pytest.raises(UserError, match="was changed after the test"):
        check_foretold(folder, before)


def test_a_damaged_file_is_said_to_be_damaged(folder):
    folder.write_json(folder.foretold, CONTENT | {"arms": []})
    with pytest.raises(UserError, match=r"foretold\.json: damaged"):
        read_foretold(folder)

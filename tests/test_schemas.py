"""The committed schemas are those of the models, and what the program writes conforms to them."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from dsmoe_eval.gates import decide
from dsmoe_eval.registry import load_policy
from dsmoe_eval.results import read_finished
from dsmoe_eval.schemas import FOLDER, main, schemas

from .leaderboards.conftest import _clean, board, make_run, run, submission  # noqa: F401 - fixtures

KEPT = Path(__file__).resolve().parent.parent / FOLDER


def valid(name, content):
    jsonschema.Draft202012Validator(json.loads(schemas()[f"{name}.schema.json"])).validate(content)


def test_the_committed_schemas_are_up_to_date(tmp_path):
    main(tmp_path)
    for name, text in schemas().items():
        assert (tmp_path / name).read_text() == text
        assert (KEPT / name).read_text() == text, f"{name} is out of date: make schemas"
    assert {path.name for path in KEPT.glob("*.json")} == set(schemas())


def test_every_file_must_name_its_version():
    for name, text in schemas().items():
        schema = json.loads(text)
        assert "const" in schema["properties"]["schema_version"], name
        assert "schema_version" in schema["required"], name


def test_the_page_of_schemas_has_every_schema_and_its_version():
    rows = re.findall(r"^\| `([\w.-]+)` \| (\d+) \|", (KEPT / "README.md").read_text(), re.M)
    versions = {
        name: str(json.loads(text)["properties"]["schema_version"]["const"])
        for name, text in schemas().items()
    }
    assert dict(rows) == versions


def test_what_is_written_conforms(run, board):  # noqa: F811 - fixtures
    content = json.loads((run / "comparisons.json").read_text())
    valid("comparisons", content)
    entries = list(board.glob("*/*/*/*.json"))
    for path in entries:
        valid("leaderboard-entry", json.loads(path.read_text()))
    assert entries
    verdict = decide(read_finished(run), load_policy("default"))
    valid("verdict", verdict.model_dump(mode="json"))
    with pytest.raises(jsonschema.ValidationError):
        valid("comparisons", content | {"schema_version": 4})

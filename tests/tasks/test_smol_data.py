"""The embedded open text: its sizes, its licences, and that no stage has a passage of another."""

import gzip
import json
from collections import Counter

import pytest

from dsmoe_eval.registry import builtin_folder, load_suite
from dsmoe_eval.tasks.identification import suite_text
from dsmoe_eval.tasks.leakage import check_leakage
from dsmoe_eval.tasks.splits import load_splits

DATA = builtin_folder() / "tasks" / "smol" / "data"
LICENCES = {"CC-BY-4.0", "CC-BY-2.5-CA", "CC0-1.0", "OGL-Canada-2.0", "MIT OR Apache-2.0"}


def rows(name):
    return [json.loads(line) for line in gzip.open(DATA / name, "rt", encoding="utf-8") if line]


def test_the_data_are_small_and_every_document_names_its_licence():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 3e6
    documents = rows("documents.jsonl.gz")
    assert {row["license"] for row in documents} <= LICENCES
    assert all(row["title"] and row["source"] and row["commit"] for row in documents)
    # Trained on were 0, 1, 2 modulo 5; the index is in the id where no line before was left out.
    for row in documents:
        if row["domain"] != "computer-science":
            remainder = int(row["id"].rpartition("-")[2]) % 5
            assert remainder == (4 if row["split"] == "test" else 3)
    tests = Counter(row["domain"] for row in documents if row["split"] == "test")
    assert len(tests) == 9
    assert min(tests.values()) >= 20
    named = {(row["id"], row["split"]) for row in documents}
    assert {(row["document"], row["split"]) for row in rows("passages.jsonl.gz")} <= named


@pytest.mark.full
@pytest.mark.parametrize("name", ["smol", "smol-full"])
def test_no_stage_has_a_passage_of_another(name):
    suite = load_suite(name)
    splits = load_splits(suite, None)
    text = suite_text(suite, splits["identification"], None)
    check_leakage(splits | {"identification": text.tasks})

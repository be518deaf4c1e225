"""Identification text of suites and of documents: what is read, and by what it is grouped."""

import json

import pytest
import yaml

from dsmoe_eval.cards import Suite
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import builtin_folder, load_suite
from dsmoe_eval.tasks.identification import (
    domain_groups,
    domain_texts,
    identification_text,
    text_source,
)
from dsmoe_eval.tasks.texts import CHUNKS, cut_text


def documents(path):
    rows = [
        {"domain": domain, "text": f"{domain} {n} " + "words of a text " * 60, "split": split}
        for domain in ("math", "law")
        for n, split in enumerate(("identification", "identification", "test"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def suite_with(folder, **documents_key):
    """The suite `lab`, whose experts are identified from documents."""
    lab = builtin_folder() / "suites" / "lab.yaml"
    content = yaml.safe_load(lab.read_text())
    content["tasks_dir"] = str(lab.parent / content["tasks_dir"])
    content["tasks"] = [
        task | {"roles": [role for role in task["roles"] if role != "identification"]}
        for task in content["tasks"] if task["domain"] in ("math", "law")
    ]  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content | {"documents": documents_key}))
    return str(path)


def test_documents_of_a_file_by_domain(tmp_path):
    rows = documents(tmp_path / "t.jsonl")
    text = identification_text(text_source(None, tmp_path / "t.jsonl", None), 2)
    assert (text.source, text.file, text.suite, text.split) == ("t.jsonl", "t.jsonl", None, None)
    assert text.domains == ("math", "law")
    chunks = [cut_text(row["text"]) for row in rows[:2]]
    assert domain_texts(text.tasks)["math"] == [*chunks[0], *chunks[1]]
    groups = domain_groups(text.tasks)["math"]
    assert [groups.count(one) for one in text.ids("math")] == [len(one) for one in chunks]


def test_a_long_document_is_read_as_new_suite_reads_it(tmp_path):
    """By default its first four chunks, as the suite of `new-suite` says; all on demand."""
    rows = [{"domain": d, "text": f"{d} " + "many words " * 500} for d in ("math", "law")]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (None, tmp_path / "t.jsonl", None)
    chunks = cut_text(rows[1]["text"])
    assert (CHUNKS, len(chunks)) == (4, 12)
    for number, wanted in ((None, 4), (2, 2), (99, 12)):
        text = identification_text(text_source(*given, number))
        assert domain_texts(text.tasks)["law"] == [*chunks[:wanted]]
        assert text.about == {"suite": None, "file": "t.jsonl", "chunks": number or CHUNKS}
    assert identification_text("lab", 3).about == {"suite": "lab", "file": None}
    with pytest.raises(UserError, match=r"--chunks is for --text and --text-dir; a suite says"):
        text_source("lab", None, None, 4)


def test_documents_of_a_suite_are_those_of_its_split(tmp_path):
    documents(tmp_path / "t.jsonl")
    name = suite_with(tmp_path, file="t.jsonl", split="identification", characters=100, chunks=3)
    text = identification_text(name)
    assert (text.source, text.file, text.split) == ("suite lab", "t.jsonl", "identification")
    assert {domain: len(text.ids(domain)) for domain in text.domains} == {"math": 2, "law": 2}
    assert {domain: len(of) for domain, of in domain_texts(text.tasks).items()} == {
        "math": 6, "law": 6,
    }  # fmt: skip
    assert all(len(one) <= 100 for one in domain_texts(text.tasks)["law"])
    with pytest.raises(UserError, match="no document of the target domain 'math' whose `split`"):
        identification_text(suite_with(tmp_path, file="t.jsonl", split="none"))
    with pytest.raises(UserError, match=r"documents: .*u\.jsonl is no file"):
        load_suite(suite_with(tmp_path, file="u.jsonl"))


def test_a_path_alone_is_a_file_of_documents():
    content = load_suite("lab").model_dump()
    card = Suite.model_validate(content | {"documents": "a.jsonl"})
    assert card.documents is not None
    assert (str(card.documents.file), card.documents.split) == ("a.jsonl", None)


def test_questions_are_each_a_document():
    text = identification_text("lab", 3)
    assert text.file is None
    assert set(domain_groups(text.tasks)["law"]) == {""}
    assert len(text.ids("law")) == 3


def test_exactly_one_source_is_given(tmp_path):
    for given in ((None, None, None), ("lab", tmp_path, None)):
        with pytest.raises(UserError, match="by --suite, --text or --text-dir, one of the three"):
            text_source(*given)

"""A suite from text of the user: it can be loaded, and no document is in two stages."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_plan, load_suite
from dsmoe_eval.tasks.identification import suite_text
from dsmoe_eval.tasks.leakage import check_leakage
from dsmoe_eval.tasks.new_suite import FEWEST, _staged, write_suite
from dsmoe_eval.tasks.passages import STRETCH
from dsmoe_eval.tasks.splits import load_splits
from dsmoe_eval.tasks.texts import CHUNK_CHARACTERS, CHUNKS, TextDocument

DOMAINS = ("law", "computer-science", "health")


def made_up(count, *, words=300, seed=0):
    """Documents of random words, which repeat nothing."""
    generator = random.Random(seed)

    def text():
        return " ".join(
            "".join(generator.choices("abcdefghij", k=generator.randrange(1, 9)))
            for _ in range(words)
        )

    return [TextDocument(domain, text(), "t") for domain in DOMAINS for _ in range(count)]


def files(folder):
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.suffix[:3] in (".js", ".ya")
    }


def test_what_is_written_loads_and_has_no_document_twice(tmp_path):
    documents = made_up(11)
    sizes = write_suite(documents, tmp_path / "my-suite")
    assert [one.domain for one in sizes] == [*DOMAINS]
    plan, path = load_plan(str(tmp_path / "my-suite" / "plan.yaml"))
    suite = load_suite(plan.suite, beside=path)
    assert (suite.documents.characters, suite.documents.chunks) == (CHUNK_CHARACTERS, CHUNKS)
    assert (plan.targets, suite.targets) == (DOMAINS, DOMAINS)
    splits = load_splits(suite, None)
    text = suite_text(suite, splits["identification"], None)
    check_leakage(splits | {"identification": text.tasks})
    for one in sizes:
        assert sum(one.documents.values()) == 11
        assert one.documents["identification"] == len(text.ids(one.domain))
        task = suite.target_task(one.domain)
        (text_task,) = (t for t in suite.tasks if t.domain == one.domain and t.is_text)
        texts = splits["test"][text_task.name].items
        assert len(texts) == one.documents["test"]
        for stage in ("tuning", "test"):
            items = splits[stage][task.name].items
            assert len(items) == one.items[stage]
            assert len({item.cluster for item in items}) == one.documents[stage]
            assert all(item.gold in item.options for item in items)
    write_suite(documents, tmp_path / "again" / "my-suite")
    assert files(tmp_path / "again" / "my-suite") == files(tmp_path / "my-suite")
    write_suite(documents, tmp_path / "other" / "my-suite", seed=1)
    assert files(tmp_path / "other" / "my-suite") != files(tmp_path / "my-suite")


@settings(max_examples=15)
@given(st.integers(8, 40), st.integers(0, 5), st.integers(0, 99))
def test_every_document_serves_one_stage_and_short_ones_serve_identification(long, short, seed):
    texts = [f"{n} " * STRETCH for n in range(long)] + [f"short {n}" for n in range(short)]
    members = [TextDocument("law", text, "t") for text in texts]
    stages = _staged("law", members, seed)
    ids = [one.id for of in stages.values() for one in of]
    assert sorted(ids) == sorted(one.id for one in members)
    assert all(len(stages[stage]) >= least for stage, least in FEWEST.items())
    assert all(len(one.text) >= STRETCH for s in ("tuning", "test") for one in stages[s])


def test_what_cannot_be_a_suite_is_refused(tmp_path):
    documents = made_up(8)
    with pytest.raises(UserError, match="text of 1 domain"):
        write_suite(documents[:8], tmp_path / "a")
    with pytest.raises(UserError, match=r"needs 8 documents of 370 .*: health 7; add documents"):
        write_suite(documents[:-1], tmp_path / "a")
    with pytest.raises(UserError, match="no name of a suite"):
        write_suite(documents, tmp_path / "a suite")
    same = [
        TextDocument(one.domain, f"{documents[0].text} {number}", "t")
        for number, one in enumerate(documents)
    ]
    with pytest.raises(UserError, match="every passage is also in another document"):
        write_suite(same, tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write_suite(documents, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]

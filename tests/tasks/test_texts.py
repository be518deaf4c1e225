"""Text documents: the file's and the folder's form, what is refused and where, and chunks."""

import gzip
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.tasks.texts import cut_text, read_text_file, read_text_folder, word_prefix

WORDS = st.text(st.sampled_from("abc .\n\u2028é"), max_size=300)


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_documents_are_lines_with_other_keys_ignored(tmp_path):
    rows = [
        {"domain": "law", "text": "One\u2028text. ", "licence": "CC0", "split": "test"},
        {"domain": "health", "text": "Another"},
    ]
    plain = write(tmp_path / "a.jsonl", rows[0], "", rows[1])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        one, other = read_text_file(path)
        assert (one.domain, one.text, one.split) == ("law", "One\u2028text.", "test")
        assert (other.where, other.split) == (f"{path}, line 3", "")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["In math, what is it?"], r"t\.jsonl, line 1: not JSON .*--text-dir"),
        (["[]"], "line 1: not a JSON object; write one JSON object per line"),
        ([{"text": "a", "domain": "b"}, {"text": "c"}], "line 2: `domain` is missing"),
        ([{"text": " ", "domain": "b"}], "line 1: `text` is missing, empty or no text"),
        ([{"text": "a", "domain": "a b"}], "the domain 'a b' is no name"),
        ([{"text": "a", "domain": "b", "split": 3}], "`split` is no text"),
        ([{"text": "a", "domain": "b"}, {"text": "a ", "domain": "c"}], "line 2: the same text as"),
        (['{"text": "\\ud800", "domain": "b"}'], "half of a surrogate pair"),
        ([], "holds no document"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, words):
    with pytest.raises(UserError, match=words):
        read_text_file(write(tmp_path / "t.jsonl", *lines))


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    (tmp_path / "b.jsonl.gz").write_bytes(b"text")
    for name in ("a", "b"):
        with pytest.raises(UserError, match=rf"{name}\.jsonl\.gz: cannot be unpacked"):
            read_text_file(tmp_path / f"{name}.jsonl.gz")
    (tmp_path / "c.jsonl").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"c\.jsonl: not UTF-8 text"):
        read_text_file(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        read_text_file(tmp_path / "none.jsonl")


def test_a_folder_has_a_folder_or_a_file_per_domain(tmp_path):
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "b.md").write_text("# Two\n---\nstill two")
    (tmp_path / "law" / "a.txt").write_text("one")
    (tmp_path / "law" / ".hidden").write_bytes(b"\xff")
    (tmp_path / "health.txt").write_text("three\n---\n\n-----\nfour")
    found = read_text_folder(tmp_path)
    assert [(one.domain, one.text) for one in found] == [
        ("health", "three"), ("health", "four"), ("law", "one"), ("law", "# Two\n---\nstill two"),
    ]  # fmt: skip
    assert found[1].where == f"{tmp_path / 'health.txt'}, part 2"
    (tmp_path / "law" / "c.pdf").write_text("x")
    with pytest.raises(UserError, match=r"c\.pdf: only \.txt and \.md files are read"):
        read_text_folder(tmp_path)
    (tmp_path / "law" / "c.pdf").rename(tmp_path / "law" / "c.txt")
    (tmp_path / "law" / "d.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"d\.txt: the text is empty"):
        read_text_folder(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_text_folder(tmp_path / "health.txt")


@example("aaaa a", 4)
@given(WORDS, st.integers(3, 40))
def test_chunks_are_the_text_in_order_with_no_word_cut(text, characters):
    chunks = cut_text(text, characters)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert all(0 < len(chunk) <= characters and chunk == chunk.strip() for chunk in chunks)
    if all(len(word) <= characters for word in text.split()):
        assert " ".join(chunks).split() == text.split()


@given(WORDS, st.integers(1, 40))
def test_a_prefix_is_whole_words_and_the_longest(text, characters):
    text = " ".join(text.split())
    prefix = word_prefix(text, characters)
    assert text.startswith(prefix)
    assert len(prefix) <= characters
    words = text.split()
    if words and len(words[0]) <= characters:
        kept = prefix.split()
        assert kept == words[: len(kept)]
        longer = " ".join(words[: len(kept) + 1])
        assert len(kept) == len(words) or len(longer) > characters


def test_chunks_are_of_like_length():
    assert [len(chunk) for chunk in cut_text("word " * 201, 500)] == [334, 334, 334]

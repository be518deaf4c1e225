"""Which tokens count: the text's own, not frames, not specials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts import documents_hash, encode_documents, with_answer
from dsmoe_eval.experts.documents import group_numbers
from dsmoe_eval.models import load_saliency_model

TEMPLATE = "{% for m in messages %}In law {{ m['content'] }}{% endfor %} What is"


@pytest.fixture(scope="module")
def tokenizer():
    return load_saliency_model("lab-poly").tokenizer


def test_special_tokens_do_not_count(letters):
    (one,) = encode_documents(letters, {"law": ["^ab^c"]})
    assert one.tokens == (1, 2, 3, 1, 4)
    assert one.kept == (False, True, True, False, True)
    assert one.prompt_length == 5


def test_template_tokens_do_not_count(tokenizer, monkeypatch):
    text = "What is the base?"
    plain = encode_documents(tokenizer, {"law": [text]})[0]
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    framed = encode_documents(tokenizer, {"law": [text]}, chat_template=True)[0]
    kept = tuple(t for t, keep in zip(framed.tokens, framed.kept, strict=True) if keep)
    assert kept == plain.tokens
    assert len(framed.tokens) == len(plain.tokens) + 4
    assert framed.kept == (False, False, *(True,) * len(plain.tokens), False, False)


def test_a_template_that_hides_or_repeats_the_text_is_refused(tokenizer, monkeypatch):
    for template in ("In law", TEMPLATE + TEMPLATE):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        with pytest.raises(ValueError, match="does not contain the text 'What is' exactly once"):
            encode_documents(tokenizer, {"law": ["What is"]}, chat_template=True)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        encode_documents(tokenizer, {"law": ["What is"]}, chat_template=True)


@pytest.mark.parametrize("text", ["a", "", "^^^"])
def test_a_text_that_cannot_be_used_is_refused(letters, text):
    with pytest.raises(ValueError, match="fewer than two tokens, or none that is not special"):
        encode_documents(letters, {"law": [text]})


def test_a_domain_without_text_is_refused(letters):
    with pytest.raises(ValueError, match="no identification text"):
        encode_documents(letters, {"law": []})


@given(st.lists(st.integers(2, 27), max_size=5))
def test_an_answer_counts_but_for_its_last_token(answer):
    from .conftest import Letters

    (one,) = encode_documents(Letters(), {"law": ["^ab"]})
    both = with_answer(one, answer)
    assert both.tokens == (*one.tokens, *answer[:-1])
    assert both.kept == (*one.kept, *(True,) * len(answer[:-1]))
    assert both.prompt_length == 3
    assert (documents_hash([one]) == documents_hash([both])) == (len(answer) < 2)


def test_chunks_of_one_text_have_one_number(letters):
    texts = {"law": ["^ab", "^bc", "^ca"], "math": ["^ab", "^a"]}
    groups = {"law": ["x", "", "x"], "math": ["x", ""]}
    documents = encode_documents(letters, texts, groups=groups)
    assert group_numbers(documents) == (0, 1, 0, 2, 3)
    assert group_numbers(encode_documents(letters, texts)) == (0, 1, 2, 3, 4)
    assert documents_hash(documents) != documents_hash(encode_documents(letters, texts))
    assert with_answer(documents[2], [1, 2]).group == "x"

"""The tokens of a batch that are recorded."""

from dsmoe_eval.experts import Document
from dsmoe_eval.experts.rows import token_columns


def test_only_counted_tokens_have_a_row():
    documents = [Document("a", (5, 6, 7), (True, False, True), 1), Document("a", (8,), (True,), 1)]
    columns = token_columns(documents, [1, 0])
    assert columns["document"].tolist() == [1, 0, 0]
    assert columns["token"].tolist() == [8, 5, 7]
    assert columns["generated"].tolist() == [False, False, True]

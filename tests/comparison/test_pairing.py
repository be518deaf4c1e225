"""Which items are the same, and what is said of the others."""

import pandas as pd
import pytest

from dsmoe_eval.comparison.pairing import pair
from dsmoe_eval.comparison.readers.results import finish
from dsmoe_eval.errors import UserError


def results(source, rows, measure=("acc", None), task=None, **more):
    """Rows of (id, question, gold, score); content where a question is given."""
    table = pd.DataFrame(rows, columns=["id", "question", "gold", "score"])
    if table["question"].notna().all():
        table["content"] = table["question"] + "|" + table["gold"]
    table = table.assign(task=task, document="d" + table["id"])
    return finish(source, table, {task or "": measure}, **more)


BASE = [("1", "q1", "g", 1.0), ("2", "q2", "g", 0.0), ("3", "q3", "g", 1.0)]


def test_content_pairs_whatever_the_order_and_the_names():
    other = [("x", "q3", "g", 0.5), ("y", "q1", "g", 0.25), ("z", "q2", "g", 0.75)]
    table = pair(results("a", BASE), results("b", other), by_id=False).table
    assert table["id"].tolist() == ["1", "2", "3"]
    assert table["score_b"].tolist() == [0.25, 0.75, 0.5]


def test_what_stands_alone_is_counted_by_reason():
    other = [("1", "q1", "other", 1.0), ("2", "p2", "g", 1.0), ("9", "q9", "g", 1.0), BASE[2]]
    pairs = pair(results("a", BASE), results("b", other, unscored=[(None, "7")]), by_id=False)
    assert pairs.table["id"].tolist() == ["3"]
    assert pairs.a.reasons == {"gold": 1, "question": 1}
    assert pairs.b.reasons == {"gold": 1, "question": 1, "absent": 1, "unscored": 1}
    assert (pairs.a.n, pairs.b.n) == (2, 4)
    assert pairs.b.first == ("1", "2", "9", "7")
    assert [w[:24] for w in pairs.warnings] == [
        "most items of a (2 of 3)",
        "most items of b (4 of 4)",
    ]


def test_an_id_pairs_other_prompts_but_never_another_gold():
    other = [("1", "p1", "g", 1.0), ("2", "p2", "g", 0.0), ("3", "q3", "other", 1.0)]
    pairs = pair(results("a", BASE), results("b", other), by_id=True)
    assert pairs.table["id"].tolist() == ["1", "2"]
    assert pairs.a.reasons["gold"] == 1
    assert pairs.warnings[0].startswith("2 of 2 pairs have other prompts")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "q1", "other", 1.0)], "share no item: 1 have another right answer.*same revision"),
        ([("1", "p1", "g", 1.0)], "share no item: 1 have another prompt.*--id doc_hash"),
        ([("9", "q9", "g", 1.0)], "share no item .*--id COLUMN"),
        ([("1", None, "g", 1.0)], "b does not hold the questions.*--id COLUMN"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_a_reason_and_a_way_out(rows, message):
    with pytest.raises(UserError, match=message):
        pair(results("a", BASE), results("b", rows), by_id=False)


def test_tables_without_questions_pair_by_their_items():
    bare = [(name, None, gold, score) for name, _, gold, score in BASE]
    changed = [*bare[:2], ("3", None, "other", 0.0)]
    pairs = pair(results("a", bare), results("b", changed), by_id=False)
    assert (len(pairs.table), pairs.a.reasons) == (2, {"gold": 1})


def test_copies_of_an_item_pair_by_their_names():
    copies = [("1", "q", "g", 1.0), ("2", "q", "g", 0.0), ("3", "r", "g", 0.0)]
    turned = [("2", "q", "g", 0.5), ("1", "q", "g", 0.25), ("3", "r", "g", 0.75)]
    table = pair(results("a", copies), results("b", turned), by_id=False).table
    assert table["score_b"].tolist() == [0.25, 0.5, 0.75]
    one = pair(results("a", copies), results("b", turned[:1]), by_id=False)
    assert one.table[["id", "score_a", "score_b"]].to_numpy().tolist() == [["2", 0.0, 0.5]]


def test_other_metrics_and_filters_are_refused():
    for measure, message in (
        (("f1", None), "by metric 'acc', b by 'f1'"), (("acc", "x"), "filter 'y', b by 'x'"),
    ):  # fmt: skip
        own = ("acc", "y" if measure[1] else None)
        with pytest.raises(UserError, match=message):
            pair(results("a", BASE, own), results("b", BASE, measure), by_id=False)
    unknown = results("b", BASE, (None, None))
    assert len(pair(results("a", BASE), unknown, by_id=False).table) == 3


def test_tasks_are_kept_apart():
    rows = pd.DataFrame(
        {"task": ["t", "u"], "id": ["1", "1"], "content": ["c", "c"], "score": [1.0, 0.0]}
    )
    both = finish("both", rows, {"t": ("acc", None), "u": ("acc", None)})
    assert pair(both, both, by_id=False).table["score_b"].tolist() == [1.0, 0.0]
    one = finish("one", rows[:1], {"t": ("acc", None)})
    pairs = pair(both, one, by_id=False)
    assert (len(pairs.table), pairs.a.n) == (1, 1)
    assert "only A has task 'u'" in pairs.warnings
    other = finish("o", rows.assign(task=["v", "w"]), {"v": ("acc", None), "w": ("acc", None)})
    with pytest.raises(UserError, match=r"no task in common: both has 't', 'u'.*--task"):
        pair(both, other, by_id=False)
    (note,) = pair(one, finish("o", rows[:1].assign(task="v"), {}), by_id=False).warnings
    assert note == "A is of task t, B of v"


def test_documents_and_domains_that_differ_are_noted():
    base = results("a", BASE)
    other = results("b", BASE)
    other = finish("b", other.table.assign(document="x", domain="law"), other.measures)
    base = finish("a", base.table.assign(domain="math"), base.measures)
    pairs = pair(base, other, by_id=False)
    assert pairs.warnings == (
        "3 of 3 pairs have documents that differ (other columns, or other values)",
        "3 pairs have another domain in B; that of A counts",
    )
    assert set(pairs.table["domain"]) == {"math"}

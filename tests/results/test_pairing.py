"""Pairing by content."""

import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.results.paired import Rates, WholeAnswers
from dsmoe_eval.results.pairing import compare_answers, pair_items


def samples(**scores):
    return pd.DataFrame({"item": list(scores), "score": list(scores.values())})


def test_rows_are_paired_by_item_not_by_position():
    paired = pair_items(samples(a=1, b=0, c=1), samples(c=0, a=1, b=1), "t")
    rows = {row["item"]: (row["score_a"], row["score_b"]) for _, row in paired.iterrows()}
    assert rows == {"a": (1, 1), "b": (0, 1), "c": (1, 0)}


def test_an_item_on_one_side_only_is_an_error():
    with pytest.raises(UserError, match="2 item"):
        pair_items(samples(a=1, b=0), samples(a=1, c=0), "t")


def test_a_doubled_item_is_an_error():
    doubled = pd.concat([samples(a=1), samples(a=0)])
    with pytest.raises(pd.errors.MergeError):
        pair_items(samples(a=1), doubled, "t")


def generated(**answers):
    """By item: (score, tokens, truncated, invalid) of each sample."""
    columns = {"item": list(answers)}
    for place, name in enumerate(("scores", "tokens", "truncated", "invalid")):
        columns[name] = [[sample[place] for sample in samples] for samples in answers.values()]
    scores = [sum(s) / len(s) if s else 1.0 for s in columns["scores"]]
    return pd.DataFrame(columns | {"score": scores})


def test_a_gain_of_format_is_told_from_one_of_knowledge():
    base = generated(
        a=[(0, 9, True, True)], b=[(0, 4, False, True)], c=[(1, 4, False, False)], d=[(1, 3, 0, 0)]
    )
    other = generated(
        a=[(1, 4, False, False)], b=[(1, 4, False, False)], c=[(1, 4, 0, 0)], d=[(0, 4, 0, 0)]
    )
    told = compare_answers(pair_items(base, other, "t"))
    assert told.a == Rates(mean_tokens=5.0, truncated=0.25, invalid=0.5)
    assert told.b == Rates(mean_tokens=4.0, truncated=0.0, invalid=0.0)
    assert told.both_whole == WholeAnswers(n=2, delta=-0.5)


def test_items_whose_options_are_scored_have_no_answers_to_count():
    scored = generated(a=[], b=[])
    assert compare_answers(pair_items(scored, scored, "t")) is None
    mixed = generated(a=[], b=[(1, 2, True, False), (0, 4, False, False)])
    told = compare_answers(pair_items(mixed, mixed, "t"))
    assert (told.n, told.count) == (1, 2)
    assert told.a == Rates(mean_tokens=3.0, truncated=0.5, invalid=0.0)
    assert told.both_whole == WholeAnswers(n=0, delta=None)

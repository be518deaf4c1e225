"""Comparisons of shared with whole texts are kept where they were made."""

import json
import logging
import math

import pytest

from dsmoe_eval.engines.requests import Answer, ScoredToken
from dsmoe_eval.engines.sharing import SharingCheck, checked, largest_difference
from dsmoe_eval.log import log_file
from dsmoe_eval.tasks.language_model import ASKED_TASKS


@pytest.fixture
def asked():
    before = ASKED_TASKS.set(("law", "math"))
    yield
    ASKED_TASKS.reset(before)


def test_case_24_an_outcome_has_its_task_and_is_logged(tmp_path, asked):
    with log_file(tmp_path / "log.jsonl"):
        found = checked("log-likelihoods", False, 0.000105, 0.0001)
    assert found == SharingCheck("log-likelihoods", ("law", "math"), False, 0.000105, 0.0001)
    (row,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert row["message"] == "shared beginnings compared"
    assert row["fields"] == {
        "what": "log-likelihoods", "tasks": ["law", "math"], "agrees": False,
        "difference": 0.000105, "tolerance": 0.0001,
    }  # fmt: skip
    assert row["level"] == logging.getLevelName(logging.INFO).lower()


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_case_24_what_is_no_number_is_none(figure):
    assert checked("answers", False, figure, figure) == SharingCheck(
        "answers", (), False, None, None
    )


def test_answers_are_compared_up_to_where_their_tokens_differ():
    def answer(*scored):
        scores = tuple(ScoredToken(token, value, ()) for token, value in scored)
        return Answer(tuple(token for token, _ in scored), "stop", scores)

    one = answer((1, -1.0), (2, -2.0), (3, -9.0))
    assert largest_difference(one, one) == 0
    assert largest_difference(one, answer((1, -1.5), (4, -2.1), (3, -1.0))) == 0.5

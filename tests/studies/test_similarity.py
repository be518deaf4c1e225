"""The lab model's experts, compared; and requests that cannot be met."""

import json

import pytest
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import SteeringError
from dsmoe_eval.studies.similarity import Texts, read_texts, similarity
from dsmoe_eval.tasks.identification import TextSource
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.texts import TextDocument, cut_text

from ..conftest import make_model

QUIET = Console(quiet=True)


def test_the_texts_of_a_suite_are_its_identification_questions():
    texts = read_texts("lab")
    suite = load_suite("lab")
    tasks = load_tasks(suite, suite.identification_tasks, "identification", None)
    assert sorted(texts.texts) == sorted(i.question for t in tasks.values() for i in t.items)
    assert texts.source == "suite lab, split identification"


def test_the_texts_of_documents_are_their_chunks():
    law = TextDocument("law", "one two " * 100, "line 1")
    assert read_texts(TextSource("mine.jsonl", (law,), 2)) == Texts(
        "mine.jsonl, at most 2 chunks of each document", cut_text(law.text)[:2]
    )


def test_texts_that_cannot_be_had():
    with pytest.raises(UserError, match="no suite"):
        read_texts("nothing")


def test_the_lab_model(make_profile):
    loaded = load_model("lab-poly", "cpu")
    profile = make_profile(loaded.model, [(0, 1), (0, 11), (3, 11), (3, 16)])
    result = similarity(loaded, read_texts("lab"), 150, profile, QUIET)
    assert (result["tokens"], result["texts"], result["experts"]) == (150, 150, 24)
    assert result["model"]["fingerprint"] == loaded.identity.fingerprint
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    for layer in result["layers"]:
        assert layer["check"] < 1e-5
        assert sum(layer["used"]) == pytest.approx(2)  # top-2
        for kernel in ("linear", "rbf"):
            assert abs(layer[kernel]["shuffled"]["mean"]) < 0.01
            assert layer[kernel]["shuffled"]["effective_rank"] > 23.9
    # The two most similar pairs of the model, which `reports/similarity` shows too.
    assert result["profile"]["linear"]["within"]["pairs"] == 2
    assert result["profile"]["linear"]["within"]["mean"] > 0.8
    assert result["profile"]["linear"]["within"]["p_value"] < 0.01


def test_requests_that_cannot_be_met(make_profile):
    loaded = load_model("lab-poly", "cpu")
    with pytest.raises(UserError, match=r"f: the texts have 2 distinct .* fewer --tokens"):
        similarity(loaded, Texts("f", ("In math",)), 100, console=QUIET)
    with pytest.raises(UserError, match="have 0 distinct tokens"):
        similarity(loaded, Texts("f", ()), 100, console=QUIET)
    with pytest.raises(UserError, match="holds no expert"):
        similarity(loaded, Texts("f", ()), 100, make_profile(loaded.model, []), QUIET)
    foreign = make_profile(make_model("olmoe"), [(0, 3)])
    with pytest.raises(SteeringError, match="is for 'tiny'"):
        similarity(loaded, Texts("f", ()), 100, foreign, QUIET)

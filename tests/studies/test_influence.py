"""The study of influence on the lab model, and shifts that cannot be."""

import io

import pytest
from rich.console import Console

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.studies import Shift, influence_study
from dsmoe_eval.tasks.identification import identification_text


def test_a_study_says_its_cost_first_and_is_not_computed_again(tmp_path):
    text = identification_text("lab", 2, answered=True)
    engine, said = load_engine("lab-poly", device="cpu"), io.StringIO()
    console = Console(file=said, width=300)
    found = influence_study(engine, text, root=tmp_path, console=console)
    assert said.getvalue().startswith("influence: 14 items, 74 texts, ")
    assert [one["domain"] for one in found["domains"]] == [
        "law", "economics", "arithmetic", "math", "biology", "physics", "chemistry",
    ]  # fmt: skip
    first = found["domains"][3]
    assert (first["items"], len(first["influence"]), len(first["influence"][0])) == (2, 4, 24)
    passes = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = influence_study(engine, text, root=tmp_path, console=Console(quiet=True))
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in passes} == passes
    gradient = influence_study(
        engine, text, Shift(form="gradient"), root=tmp_path, console=Console(quiet=True)
    )
    assert gradient["steps"] is None
    assert gradient["domains"][3]["influence"] != first["influence"]


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (Shift("gradient", "score"), "its gradient is zero; take the form exact"),
        (Shift("exact", "logit", float("nan")), "the step nan is no finite number above 0"),
        (Shift("exact", "logit", float("inf")), "the step inf is no finite number above 0"),
        (Shift("exact", "weight"), "sigma is a unit of logits, not of the channel weight"),
    ],
)
def test_a_shift_that_cannot_be_is_refused(shift, words):
    with pytest.raises(UserError, match=words):
        shift.check()

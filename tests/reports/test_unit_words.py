"""Words follow the units; names stay."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dsmoe_eval.reports import render_existence
from dsmoe_eval.reports.unit_words import in_words_of, page_in_words_of, put_in_words_of


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ("neurons", "Neurons: a neuron, and neurons, beside shuffled inputs of FFNs."),
        ("blocks of 64 neurons", "Blocks: a block, and blocks, beside shuffled inputs of FFNs."),
        (None, "Experts: an expert, and experts, beside shuffled routers of routers."),
    ],
)
def test_sentences(units, said):
    text = "Experts: an expert, and experts, beside shuffled routers of routers."
    assert in_words_of(units, text) == said


@pytest.mark.parametrize(
    "name", ["experts.png", "my-expert", "reports/experts/a", "num_experts", "expert.md"]
)
def test_names_stay(name):
    assert in_words_of("neurons", f"see {name} of it") == f"see {name} of it"


@given(st.text())
def test_no_units_no_change(text):
    assert in_words_of(None, text) == text


PAGE = (
    "<style>.expert { }</style><p title='Experts'>An expert of router &amp; co, by routing.</p>"
    '<code>run --by router</code><img alt="experts" src="data:image/png;base64,a+expert+b/routing">'
    "<script>f('expert')\n// router</script> `identify --experts` and experts' routers"
)


def test_a_page_keeps_scripts_pictures_code_and_names():
    said = page_in_words_of("neurons", PAGE, ["router & co", "lab"])
    assert said == (
        "<style>.expert { }</style><p title='Neurons'>A neuron of router &amp; co, by selection."
        '</p><code>run --by router</code><img alt="neurons" '
        'src="data:image/png;base64,a+expert+b/routing">'
        "<script>f('expert')\n// router</script> `identify --experts` and neurons' FFNs"
    )
    assert page_in_words_of(None, PAGE, ["router & co"]) == PAGE
    assert page_in_words_of("neurons", "routing of routing", ["routing"]) == "routing of routing"


def test_a_picture():
    figure = Figure()
    axis = figure.subplots()
    axis.set_ylabel("specific experts, of 288 tested")
    put_in_words_of("neurons", figure)
    assert axis.get_ylabel() == "specific neurons, of 288 tested"


KEPT = Path(__file__).parents[2] / "reports"


@pytest.mark.slow
def test_the_pages_are_those_that_are_kept(tmp_path):
    for name in ("existence", "smol/dense-existence"):
        result = json.loads((KEPT / name / "existence.json").read_text(encoding="utf-8"))
        page = render_existence(result, tmp_path / name).read_text(encoding="utf-8")
        assert page == (KEPT / name / "existence.md").read_text(encoding="utf-8")
    assert not re.search("expert|router|routing", page, re.IGNORECASE)


def test_the_kept_report_of_a_dense_model_speaks_of_neurons():
    folder = KEPT / "smol" / "dense"
    for name in ("report.md", "index.html"):
        page = (folder / name).read_text(encoding="utf-8")
        page = re.sub(r"<script.*?</script>|data:[^\"]*", "", page, flags=re.DOTALL)
        assert re.findall(r".{20}\b(?:experts?|routers?|routing)\b(?!\.png)", page, re.I) == []
        assert "461 neurons" in page or "random neurons" in page

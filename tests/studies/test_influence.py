"""The study of influence on the lab model, and shifts that cannot be."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.studies import Shift, influence_study
from dsmoe_eval.studies.influence import CLEAR
from dsmoe_eval.tasks.identification import identification_text, text_source

from ..dense import LAYERS, NEURONS, WIDTH, down, saved_dense


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


WORDS = "the court of appeal held that notice was given in time and so the lease ended".split()


def documents(path):
    """Twelve short documents of two domains."""
    rows = [
        {"domain": ("law", "music")[at % 2], "text": " ".join(WORDS[at % 5 : at % 5 + 9 - at % 3])}
        for at in range(12)
    ]
    rows = [row | {"text": f"{at} {row['text']}"} for at, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return [row["text"] for row in rows if row["domain"] == "law"]


def mean_likelihoods(model, tokenizer, texts):
    """The mean log-likelihood of a token of each text, by cross-entropy in float64."""
    found = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
        found.append(-torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    return np.array(found)


@pytest.mark.parametrize("block", [pytest.param(1, marks=pytest.mark.full), 12])
def test_the_influence_of_neurons_is_the_slope_of_the_outcome_by_their_columns(tmp_path, block):
    """Against central differences with the columns of the down projection scaled."""
    saved_dense("llama", tmp_path / "model")
    texts = documents(tmp_path / "texts.jsonl")
    source = text_source(None, tmp_path / "texts.jsonl", None, None)
    sites = NEURONS.model_copy(update={"block": block})
    engine = load_engine(str(tmp_path / "model"), device="cpu", sites=sites)
    text = identification_text(source, None, answered=True)
    found = influence_study(engine, text, root=tmp_path / "o", console=Console(quiet=True))
    assert (found["units"], found["experts"], found["channel"]) == (
        sites.noun, WIDTH // block, "factor",
    )  # fmt: skip
    assert found["form"] == "gradient"
    law = found["domains"][0]
    assert len(law["largest"]) == min(200, LAYERS * WIDTH // block)

    model = engine.reader().model.double()
    tokenizer = engine.tokenizer
    assert law["outcome"] == pytest.approx(mean_likelihoods(model, tokenizer, texts).mean(), 1e-5)
    slopes = np.zeros((LAYERS, WIDTH // block, len(texts)))
    with torch.no_grad():
        for layer, unit in np.ndindex(slopes.shape[:2]):
            column = down(model, "llama", layer).weight[:, unit * block : (unit + 1) * block]
            before = column.clone()
            for sign in (1, -1):
                column.copy_(before * (1 + sign * 1e-3))
                slopes[layer, unit] += sign * mean_likelihoods(model, tokenizer, texts) / 2e-3
            column.copy_(before)
    mean, error = slopes.mean(-1), slopes.std(-1, ddof=1) / np.sqrt(len(texts))
    scale = np.abs(mean).max()
    np.testing.assert_allclose(law["influence"], mean, atol=1e-3 * scale)
    centred = mean - mean.mean(-1, keepdims=True)
    for one, expected in zip(law["largest"], -np.sort(-centred, axis=None), strict=False):
        at = one["layer"], one["expert"]
        assert one["influence"] == pytest.approx(mean[at], abs=1e-3 * scale)
        assert one["centred"] == pytest.approx(expected, abs=2e-3 * scale)
        assert one["error"] == pytest.approx(error[at], abs=1e-3 * error.max())
    for count, t in ((law["above"], mean / error), (law["below"], -mean / error)):
        assert (t > 1.02 * CLEAR).sum() <= count <= (t > 0.98 * CLEAR).sum()


@pytest.mark.parametrize(
    "shift", [Shift(channel="weight", unit="odds"), Shift(step=1.0), Shift(unit="odds")]
)
def test_neurons_take_no_channel_and_no_step(shift):
    with pytest.raises(UserError, match="neurons have neither logits nor correction biases"):
        shift.check(NEURONS)
    Shift("gradient").check(NEURONS)


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

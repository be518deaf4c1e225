"""Cells are answered, killed, and answered on."""

import pandas as pd
import pytest

from dsmoe_eval.engines.transformers.answers import ROWS
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.models import load_model
from dsmoe_eval.registry import load_suite
from dsmoe_eval.results.cells import is_done, read_cell, read_samples
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs.cells import run_cell
from dsmoe_eval.tasks.loading import load_tasks

from ..results.test_cells import IDENTITY


@pytest.fixture(scope="module")
def lm():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, "cpu", 4)  # so that a few items are several batches
        yield TransformersLM(load_model("lab-poly", "cpu"), 64)


@pytest.fixture(scope="module")
def sums():
    suite = load_suite("lab")
    return load_tasks(suite, [suite.task("lab_arithmetic")], "test", 20)["lab_arithmetic"]


def test_a_killed_cell_goes_on_with_the_answers_that_it_has(lm, sums, tmp_path, monkeypatch):
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    run_cell(whole, IDENTITY, lm, sums, None)
    asked, generate = [], lm._generate

    def mortal(batch, cache):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(batch))
        return generate(batch, cache)

    monkeypatch.setattr(lm, "_generate", mortal)
    with pytest.raises(KeyboardInterrupt):
        run_cell(killed, IDENTITY, lm, sums, None)
    assert not is_done(killed, IDENTITY)
    kept = killed.answers(IDENTITY.id)
    assert len(kept.read_text().splitlines()) == sum(asked) < len(sums.items)
    again = []
    monkeypatch.setattr(
        lm, "_generate", lambda batch, cache: again.append(len(batch)) or generate(batch, cache)
    )
    run_cell(killed, IDENTITY, lm, sums, None)
    assert sum(again) == len(sums.items) - sum(asked)
    assert not kept.exists()
    one, two = (read_samples(folder, IDENTITY.id) for folder in (whole, killed))
    pd.testing.assert_frame_equal(one, two)


def test_a_cell_tells_what_generated_answers_took(lm, sums, tmp_path):
    folder = RunFolder(tmp_path)
    run_cell(folder, IDENTITY, lm, sums, None)
    told = read_cell(folder, IDENTITY.id)["answers"]
    rows = read_samples(folder, IDENTITY.id)
    assert told["samples"] == 1
    assert told["mean_tokens"] == rows["tokens"].str[0].mean() > 1
    assert told["truncated"] == rows["truncated"].str[0].mean()
    assert rows["texts"].str[0].str.strip().tolist() == rows["answer"].str.strip().tolist()
    assert rows["cluster"].is_unique

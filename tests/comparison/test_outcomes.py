"""Outcomes of lm-eval's samples, of our cells and of tables, against lm-eval's own metrics."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from scipy.special import log_softmax

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.compare import compare
from dsmoe_eval.comparison.outcomes import Direction
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs.cells import run_cell
from dsmoe_eval.stats import compare_paired
from dsmoe_eval.steering import steer
from dsmoe_eval.tasks.loading import quiet_lm_eval

from ..conftest import profile_of
from ..recorded import record
from ..results.test_cells import IDENTITY
from ..tasks.test_outcomes import asked  # noqa: F401 - a fixture

TASKS = {"own_acc": "gold_logprob", "own_acc_norm": "gold_logprob_norm",
         "own_bits_per_byte": "bits_per_byte"}  # fmt: skip


@pytest.fixture(scope="module")
def answered(asked, tmp_path_factory):  # noqa: F811
    """Per side: lm-eval's results, its samples as files, and our cells."""
    loaded, tasks = asked
    sides = []
    for name in ("base", "steered"):
        root = tmp_path_factory.mktemp(name)
        if name == "base":
            sides.append(_answer(loaded, tasks, root))
        else:
            with steer(loaded.model, profile_of(loaded.model)):
                sides.append(_answer(loaded, tasks, root))
    return sides


def _answer(loaded, tasks, root):
    peer = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4, device="cpu")
    with quiet_lm_eval():
        found = evaluate(
            peer, {name: one.task for name, one in tasks.items()}, bootstrap_iters=0,
            log_samples=True,
        )  # fmt: skip
    lm, folder, cells = TransformersLM(loaded, 512), RunFolder(root / "run"), {}
    for name, task in tasks.items():
        lines = (json.dumps(sample, default=str) for sample in found["samples"][name])
        file = root / f"samples_{name}_2026-01-01T00-00-00.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines))
        metric = name.removeprefix("own_")
        identity = dataclasses.replace(IDENTITY, task=name, metric=metric, filter=None)
        run_cell(folder, identity, lm, task, None)
        cells[name] = folder.cell(identity.id)
    record(folder.root)
    return found, root, cells


def selected(task):
    return Selection(task=task, metric=TASKS[task], cluster="topic")


def files(answered, task):
    return [f"{root}/samples_{task}_2026-01-01T00-00-00.jsonl" for _, root, _ in answered]


@pytest.mark.parametrize("task", ["own_acc", "own_acc_norm"])
def test_log_probabilities_follow_from_lm_evals_samples(answered, task):
    result = compare(*files(answered, task), selected(task))
    levels = []
    for found, _, _ in answered:
        values = []
        for sample in found["samples"][task]:
            likelihoods = np.array([float(v) for v, _ in sample["filtered_resps"]])
            options = [len(arguments[1].strip()) for arguments in sample["arguments"]]
            lengths = options if task == "own_acc_norm" else 1
            values.append(log_softmax(likelihoods / lengths)[sample["doc"]["gold"]])
        levels.append(np.mean(values))
    assert (result.pooled.score_a, result.pooled.score_b) == pytest.approx(levels, abs=1e-9)
    assert result.pooled.delta == pytest.approx(levels[1] - levels[0], abs=1e-9)
    assert "nats" in result.words or "inconclusive" in result.words
    assert (result.margin, result.lower_is_better) == (0.05, False)
    assert result.pooled.clusters == 3


def test_bits_per_byte_are_lm_evals_and_fewer_are_better(answered):
    task = "own_bits_per_byte"
    a, b = (found["results"][task]["bits_per_byte,none"] for found, _, _ in answered)
    result = compare(*files(answered, task), selected(task))
    assert (result.pooled.score_a, result.pooled.score_b) == pytest.approx((a, b), abs=1e-9)
    assert result.pooled.delta == pytest.approx(a - b, abs=1e-9)
    assert result.lower_is_better
    assert result.to_dict()["lower_is_better"]
    assert result.margin == 0.02
    worse = compare(*reversed(files(answered, task)), selected(task))
    assert worse.pooled.delta == pytest.approx(b - a, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_our_cells_pair_with_lm_evals_samples_and_agree(answered, task):
    (_, _, cells), _ = answered
    selection = Selection(metric=TASKS[task])
    ours = read_results(str(cells[task]), selection)
    theirs = read_results(files(answered, task)[0], dataclasses.replace(selection, task=task))
    result = compare(theirs, dataclasses.replace(ours, prompts={}), selection)
    assert result.pooled.n == 6
    assert abs(result.pooled.delta) < 1e-4


def test_domains_are_ratios_of_their_own_bytes():
    rng = np.random.default_rng(0)
    size = rng.integers(50, 500, 40)
    frame = pd.DataFrame({"item": np.arange(40), "domain": ["x", "y"] * 20})
    bits = [rng.normal(1, 0.1, 40) * size for _ in range(2)]
    sides = [
        dataclasses.replace(
            read := read_results(frame.assign(score=own), Selection(id="item")),
            table=read.table.assign(size=size),
            measures={"t": ("bits_per_byte", None)},
        )
        for own in bits
    ]
    result = compare(*sides, Selection(id="item"))
    whole = [own.sum() / size.sum() for own in bits]
    assert (result.pooled.score_a, result.pooled.score_b) == pytest.approx(whole)
    for domain in result.domains:
        own = frame["domain"] == domain.domain
        levels = [one[own].sum() / size[own].sum() for one in bits]
        assert (domain.result.score_a, domain.result.score_b) == pytest.approx(levels)
        assert domain.result.delta == pytest.approx(levels[0] - levels[1])


def test_a_table_of_losses_is_turned_round():
    a, b = [1, 1, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]
    frames = [pd.DataFrame({"item": range(8), "score": own}) for own in (a, b)]
    result = compare(*frames, Selection(id="item"), lower_is_better=True)
    assert (result.verdict, result.pooled.delta) == ("improves", 0.75)
    assert (result.pooled.score_a, result.pooled.score_b) == (7 / 8, 1 / 8)
    assert result.pooled.test == "mid-p McNemar"
    plain = compare_paired(a, b)
    assert Direction().shown(plain, None) == plain

"""The stage on a small plan: figures from the files alone, distinct cells, and a killed run."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.cards import Plan
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_plan, load_suite
from dsmoe_eval.results import read_finished
from dsmoe_eval.runs import answering, cells, run
from dsmoe_eval.runs.estimate import estimate
from dsmoe_eval.runs.job import prepare
from dsmoe_eval.runs.options import RunOptions
from dsmoe_eval.runs.plan_checks import stability_arm
from dsmoe_eval.runs.run import plan_table
from dsmoe_eval.runs.stability import check_wordings, stability_answers
from dsmoe_eval.steering import Profile
from dsmoe_eval.variants import get_variant

QUIET = Console(quiet=True)
SETTINGS = {"limit": 8, "device": "cpu", "console": QUIET}


@pytest.fixture(scope="module")
def plan_path(tmp_path_factory):
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"targets": ["physics"], "variants": ["base", "contrast", "steermoe", "random"]}
    plan |= {"controls": "none", "stability": 3}
    plan["tuning"] = {"expert_counts": [4], "strengths": {"bias": [3.0], "force": [0.01]}}
    path = tmp_path_factory.mktemp("plan") / "spread.yaml"
    path.write_text(yaml.safe_dump(plan))
    return str(path)


@pytest.fixture(scope="module")
def finished(plan_path, tmp_path_factory):
    return run(plan_path, tmp_path_factory.mktemp("runs") / "a", **SETTINGS)


@pytest.fixture(scope="module")
def found(finished):
    return read_finished(finished.root).stability


def experts_of(path):
    return {(one.layer, one.expert, one.activate) for one in Profile.load(path).experts}


def test_every_tuned_arm_has_its_overlap(found):
    assert [(row.variant, row.experts, row.named) for row in found.overlaps] == [
        ("contrast", 4, 3),
        ("steermoe", 4, 3),
    ]
    for row in found.overlaps:
        assert 0 < row.by_chance < row.between <= 1
        assert 0 < row.with_full <= 1
    assert (found.arm, found.resamples, found.without_experts) == ("contrast", 3, ())


def test_the_overlap_follows_from_the_stored_profiles(finished, found):
    (full,) = finished.root.glob("profiles/physics--contrast--*.json")
    paths = [finished.root.glob(f"profiles/physics--contrast+resample-{k}--*") for k in (1, 2, 3)]
    sets = [experts_of(next(path)) for path in paths]
    pairs = [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    whole = [len(one & experts_of(full)) / len(one | experts_of(full)) for one in sets]
    assert found.overlaps[0].between == pytest.approx(np.mean(pairs))
    assert found.overlaps[0].with_full == pytest.approx(np.mean(whole))


def test_a_resample_chooses_what_loops_over_its_documents_choose(finished):
    """Risk differences by hand from the stored counts, for the documents drawn by the seed."""
    (folder,) = finished.root.glob("observations/*/counts-*")
    used, tokens = (np.load(folder / f"{name}.npy")[::2] for name in ("used", "tokens"))
    order = json.loads(finished.identification.read_text())["domains"]
    domain = np.repeat(np.arange(len(order)), 8)  # the limit: 8 documents of each
    generator, times = np.random.default_rng([0, 0, 2]), []
    for _ in order:
        times += list(generator.multinomial(8, np.full(8, 1 / 8)))
    own, rest = (
        sum(times[k] * used[k].sum(0) for k in np.flatnonzero(mask))
        / sum(times[k] * tokens[k].sum() for k in np.flatnonzero(mask))
        for mask in (domain == order.index("physics"), domain != order.index("physics"))
    )
    best = np.argsort(-(own - rest), axis=None, kind="stable")[:4]
    expected = {tuple(map(int, np.unravel_index(flat, own.shape))) for flat in best}
    (path,) = finished.root.glob("profiles/physics--contrast+resample-2--*.json")
    assert {(layer, expert) for layer, expert, _ in experts_of(path)} == expected
    assert Profile.load(path).method == "risk-difference, resample-2"


def test_gains_and_scores_follow_from_the_rows(finished, found):
    def mean(cell):
        return pd.read_parquet(finished.cell(cell) / "samples.parquet")["score"].mean()

    (row,) = found.gains
    assert len(row.cells) == 3
    assert row.gains == pytest.approx([mean(cell) - mean(row.base) for cell in row.cells])
    (of,) = found.wordings
    assert [one.line for one in of.wordings] == [None, *load_suite("lab").wordings]
    for one in of.wordings:
        assert (one.base, one.arm) == (mean(one.base_cell), mean(one.arm_cell))
    (arm,) = [arm for arm in read_finished(finished.root).result.arms if arm.variant == "contrast"]
    assert of.wordings[0].gain == pytest.approx(arm.target_result.delta)


def test_each_cell_has_an_identity_of_its_own(finished, found):
    ids = [one for of in found.wordings for row in of.wordings for one in (row.base_cell,
        row.arm_cell)] + list(found.gains[0].cells)  # fmt: skip
    assert len(set(ids)) == len(ids) == 6 + 3
    told = [json.loads((finished.cell(one) / "cell.json").read_text()) for one in ids]
    names = [cell["identity"]["variant"] for cell in told]
    assert names == ["base", "contrast"] * 3 + [f"contrast+resample-{k}" for k in (1, 2, 3)]
    formats = [cell["identity"]["prompt_format"] for cell in told]
    assert formats[2] == formats[3] == f"{formats[0]}, after the line 'What is what?'"
    for cell in told:
        assert (cell["probe"] is None) == (cell["identity"]["variant"] == "base")
        assert cell["prompt_tokens"] > 0
    assert told[2]["prompt_tokens"] == told[0]["prompt_tokens"] + 4


def test_a_second_start_answers_nothing_again(finished, plan_path, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("work was done twice")

    before = finished.stability.read_text()
    monkeypatch.setattr(answering, "run_cell", never)
    run(plan_path, finished.root, **SETTINGS)
    assert finished.stability.read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("left", [2, 6])
def test_an_interrupted_stage_ends_like_an_uninterrupted_one(
    finished, plan_path, tmp_path, monkeypatch, left
):
    """Killed in the stage, which answers the last seven cells."""
    honest, calls = cells.run_cell, []
    total = len(list(finished.root.glob("cells/*")))

    def interrupt(*args):
        calls.append(1)
        if len(calls) > total - left:
            raise KeyboardInterrupt
        honest(*args)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "run_cell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(plan_path, tmp_path / "b", **SETTINGS)
    again = run(plan_path, tmp_path / "b", **SETTINGS)
    assert again.comparisons.read_text() == finished.comparisons.read_text()
    assert again.stability.read_text() == finished.stability.read_text()


def test_the_estimate_counts_what_the_stage_answers(plan_path, tmp_path, monkeypatch):
    job = prepare(plan_path, tmp_path / "run", RunOptions(limit=8, device="cpu"))
    expected = estimate(plan_path, limit=8)
    assert expected.stability_cells == 3 + 2 * 2
    assert expected.stability_answers == stability_answers(job) == 7 * 8
    shown = dict(zip(*[list(column.cells) for column in plan_table(job).columns], strict=True))
    assert str(shown["stability"]) == "7 cells, 56 answers"
    without = tmp_path / "without.yaml"
    without.write_text(Path(plan_path).read_text().replace("stability: 3\n", ""))
    assert estimate(str(without), limit=8).tokens < expected.tokens
    monkeypatch.setattr(job.lm, "check_context_length", _too_long)
    with pytest.raises(UserError, match="task 'lab_physics_unnamed': too long"):
        check_wordings(job)
    job.close()


def _too_long(_requests):
    raise UserError("too long")


def test_the_arm_is_one_that_steers_experts():
    plan = load_plan("lab")[0]
    variants = tuple(map(get_variant, ("base", "prompt", "contrast", "steermoe", "sft-lora")))

    def arm(stability, among=variants):
        return stability_arm(
            Plan.model_validate(plan.model_dump() | {"stability": stability}), among
        )

    assert arm(5) == "contrast"
    assert arm({"arm": "steermoe"}) == "steermoe"
    with pytest.raises(UserError, match=r"stability\.arm is 'prompt'; .*: contrast, steermoe"):
        arm({"arm": "prompt"})
    with pytest.raises(UserError, match="stability needs a variant that is tuned"):
        arm(5, variants[:2])


def test_wordings_of_the_lab_are_words_that_it_knows():
    from dsmoe_eval.models import load_model

    tokenizer = load_model("lab-poly").tokenizer
    for line in load_suite("lab").wordings:
        assert tokenizer.unk_token_id not in tokenizer(f"{line} What is 1 + 1?")["input_ids"]

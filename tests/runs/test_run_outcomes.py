"""A whole run with held-out text, whose primary outcome is the log-probability."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_suite
from dsmoe_eval.reports.render import render
from dsmoe_eval.reports.run_outcomes import outcome_sections, primary_words
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.runs import run
from dsmoe_eval.runs.tuning import Tuned

from ..engines.test_task_kinds import draw_documents, lab

QUIET = Console(quiet=True)
TEXT = {
    "task": "held_out_{}", "dataset_path": "json", "output_type": "loglikelihood_rolling",
    "doc_to_text": "", "doc_to_target": "long",
}  # fmt: skip


def write_plan(folder, without_sums=True, **changes):
    """The lab's mathematics and biology, and texts of both; with sums an outcome is lacking."""
    content = yaml.safe_load(find_card("suites", "lab").read_text())
    domains = ("math", "biology", *(() if without_sums else ("arithmetic",)))
    content["tasks"] = [task for task in content["tasks"] if task["domain"] in domains]
    source = load_suite("lab").tasks_dir
    shutil.copytree(source, folder / "suites" / "tasks")
    documents = draw_documents(lab()[1])()["test"]
    for domain in ("math", "biology"):
        rows = [{**row, "long": f"{domain} {row['long'][:300]}"} for row in documents]
        file = folder / f"{domain}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = TEXT | {"task": f"held_out_{domain}"}
        task["dataset_kwargs"] = {"data_files": {"test": str(file)}}
        (folder / "suites" / f"held_out_{domain}.yaml").write_text(yaml.safe_dump(task))
        card = {"name": task["task"], "domain": domain, "roles": ["text"]}
        content["tasks"].append(card | {"metric": "bits_per_byte", "splits": {"test": "test"}})
    (folder / "suites" / "own.yaml").write_text(
        yaml.safe_dump(content | {"name": "own", "tasks_dir": "."})
    )
    plan = {
        "name": "own", "description": "d", "model": "lab-poly", "suite": "own",
        "targets": ["math"], "variants": ["base", "sham", "contrast", "random"], "margin": 0.02,
        "tuning": {"expert_counts": [4], "strengths": {"bias": [0.5, 1.0]}},
        "controls": "none", "outcome": "gold_logprob", "margins": {"gold_logprob": 0.2},
    }  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan | changes))
    return str(folder / "plan.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    done = run(write_plan(folder), folder / "out", limit=6, device="cpu", console=QUIET)
    return read_finished(done.root)


def test_every_arm_reads_the_texts_and_sham_changes_none(finished):
    result = finished.result
    assert result.outcome == "gold_logprob"
    for arm in result.arms:
        gold, bits = arm.outcomes
        assert gold.margin == 0.2
        assert [row.task for row in bits.tasks] == ["held_out_math", "held_out_biology"]
        assert (bits.target.n, bits.non_targets.n) == (6, 6)
        assert (gold.target.n, gold.non_targets.n) == (6, 6)
        changed = [row.gained + row.lost for one in (gold, bits) for row in one.tasks]
        assert (
            all(changed)
            if arm.variant == "contrast"
            else arm.variant == "random" or not any(changed)
        )
    assert {row.task for row in result.base} == {"lab_math_unnamed", "lab_biology_named"}


def test_settings_are_chosen_by_the_primary_outcome(finished):
    tuned = Tuned.from_dict(finished.folder.read_json(finished.folder.tuning("contrast", "math")))
    assert len(tuned.trials) == 2
    deltas = [one.target_delta for one in tuned.trials]
    # Six items: the change of a score would be a multiple of a sixth.
    assert all(abs(6 * one - round(6 * one)) > 1e-6 for one in deltas)


def test_cells_of_texts_have_their_own_columns(finished):
    one = finished.arms["contrast", "math"].outcome("bits_per_byte").tasks[0]
    rows = [pd.read_parquet(finished.folder.cell(c) / "samples.parquet") for c in one.cells]
    assert all("score" not in row and np.isfinite(row["loglikelihood"]).all() for row in rows)
    levels = [-row["loglikelihood"].sum() / row["bytes"].sum() / np.log(2) for row in rows]
    assert [one.level_a, one.level_b] == pytest.approx(levels, abs=1e-9)


def test_a_primary_outcome_that_a_task_lacks_is_refused(tmp_path):
    plan = write_plan(tmp_path, without_sums=False)
    with pytest.raises(UserError, match="gold_logprob needs options, and task lab_arithmetic"):
        run(plan, tmp_path / "out", limit=2, device="cpu", console=QUIET)
    assert not (tmp_path / "out").exists()


def test_both_pages_have_a_section_of_each_outcome_and_its_plots(finished, tmp_path):
    report = render(finished.folder, tmp_path / "report")
    text, html = report.read_text(), (report.parent / "index.html").read_text()
    words = primary_words(finished.result)
    assert words in html
    assert text.index(words) < text.index("The score, secondary in this plan")
    for section in outcome_sections(finished.result):
        assert f"## {section.title}" in text
        assert f"<h2>{section.title}</h2>" in html
        for forest in section.forests:
            assert f"({forest.id}.png)" in text
            assert (report.parent / f"{forest.id}.png").is_file()
            assert f'id="{forest.id}"' in html
    assert re.search(r"broken line: the margin, -0\.02 bits per byte", html)
    assert "- By score (secondary): sham equals base" in text

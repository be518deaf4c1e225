"""The part of a report on the spread of the method, and the picture."""

import shutil

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports import domain_stability_page, render
from dsmoe_eval.reports.run_stability import (
    overlap_table,
    spread_table,
    stability_findings,
    wordings_table,
)
from dsmoe_eval.results import RunFolder, read_finished
from dsmoe_eval.results.stability import (
    ArmOverlap,
    ExpertOverlap,
    ResampledGains,
    StabilityResult,
    TargetWordings,
    Wording,
)
from dsmoe_eval.runs.overlaps import DomainStability
from dsmoe_eval.steering import ChosenExpert

from .made import shown, with_figures

CELL = "0123456789abcdef"


def overlap_row(target, between, named=3):
    return ArmOverlap(
        variant="contrast", target=target, experts=8, named=named, between=between,
        by_chance=None if between is None else 0.05, with_full=between,
    )  # fmt: skip


def wording(base, arm, line=None):
    return Wording(line=line, base=base, arm=arm, base_cell=CELL, arm_cell=CELL)


def gains(target, *values):
    return ResampledGains(target=target, base=CELL, cells=(CELL,) * len(values), gains=values)


@pytest.fixture
def stability():
    return StabilityResult(
        schema_version=1,
        resamples=3,
        arm="contrast",
        overlaps=(overlap_row("math", 0.5), overlap_row("physics", 1.0)),
        without_experts=(),
        gains=(gains("math", 0.1, 0.2, 0.3), gains("physics")),
        wordings=(
            TargetWordings(
                target="math", wordings=(wording(0.5, 0.7), wording(0.4, 0.5, "What is what?"))
            ),
            TargetWordings(target="physics", wordings=(wording(0.5, 0.5),)),
        ),
    )


@pytest.fixture
def gained(result):
    """The small run with a gain of contrast of one item in twenty on its targets."""
    return with_figures(result, "contrast", n=20, gained=1, lost=0, score_a=0.5, score_b=0.55)


def test_tables(gained, stability):
    assert shown(overlap_table(stability)) == [
        ("contrast", "math", "8", "3", "0.50", "0.05", "0.50"),
        ("contrast", "physics", "8", "3", "1.00", "0.05", "1.00"),
    ]
    math, physics = shown(spread_table(gained, stability))
    assert math[0] == "math"
    assert math[1].startswith("+5.0 [")
    assert math[2:] == ("+20.0", "10.0", "+10.0 to +30.0", "+10.0 to +20.0", "10.0")
    assert physics[2:] == ("-", "-", "-", "-", "-")
    assert shown(wordings_table(stability))[1] == (
        "math", "What is what?", "40.0%", "50.0%", "+10.0 pp"
    )  # fmt: skip


def test_a_gain_below_the_noise_of_wordings_is_called_that(gained, stability):
    said = stability_findings(gained, stability)
    assert any("contrast 0.50 to 1.00 (0.05)" in one for one in said)
    assert any("each resample: math +10.0 to +30.0 pp (full text: +5.0 pp [" in one for one in said)
    assert said[-1] == (
        "On math, the gain of contrast (+5.0 pp) is smaller than what the wording of the prompt "
        "moves base, 10.0 pp."
    )
    larger = with_figures(gained, "contrast", gained=3, score_b=0.65)
    assert not any("smaller than" in one for one in stability_findings(larger, stability))
    none = with_figures(gained, "contrast", gained=0, score_b=0.5)
    assert not any("smaller than" in one for one in stability_findings(none, stability))


def test_what_could_not_be_measured_is_said(gained, stability):
    rows = (overlap_row("math", None, named=1), overlap_row("physics", 0.5, named=3))
    changed = {"overlaps": rows, "without_experts": ("contrast",)}
    said = stability_findings(gained, stability.model_copy(update=changed))
    assert any("2 of 3 resamples cannot name 8 experts" in one for one in said)
    assert any("steers by a vector and chooses no experts" in one for one in said)
    alone = {"overlaps": rows[:1]}
    (first, *_) = stability_findings(gained, stability.model_copy(update=alone))
    assert first.endswith("contrast unknown.")


def test_the_report_has_tables_and_picture(folder, stability, tmp_path):
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(folder.root, copy.root)
    copy.write_json(copy.stability, stability.model_dump(mode="json"))
    text = render(copy).read_text()
    assert "## Would other text have chosen other experts?" in text
    assert "| contrast | math | 8 | 3 | 0.50 | 0.05 | 0.50 |" in text
    assert "](stability.png)" in text
    page = (copy.report / "index.html").read_text()
    assert "stability.json: overlaps[contrast, math].between" in page
    assert (copy.report / "stability.png").stat().st_size > 10_000


def test_a_file_that_does_not_fit_or_is_missing_is_refused(folder, tmp_path):
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(folder.root, copy.root)
    assert read_finished(copy.root).stability is None
    copy.write_json(copy.stability, {"schema_version": 2})
    with pytest.raises(UserError, match=r"stability\.json: schema_version: .*run it again"):
        _ = read_finished(copy.root).stability
    copy.stability.write_text("{}")
    with pytest.raises(UserError, match="changed after the run wrote it"):
        render(copy)
    copy.stability.unlink()
    copy.check_unfinished()
    known = copy.read_json(copy.identity)
    changed = known["plan"] | {"stability": {"resamples": 5}}
    copy.write_json(copy.identity, known | {"plan": changed})
    with pytest.raises(UserError, match=r"has no stability\.json, which its plan asks for"):
        render(copy)


def test_the_page_of_the_command():
    overlap = ExpertOverlap(experts=1, named=4, between=0.5, by_chance=0.25, with_full=None)
    experts = ((ChosenExpert(layer=2, expert=7, score=0.5), 3),)
    found = DomainStability(documents=12, resamples=5, overlap=overlap, experts=experts)
    assert domain_stability_page(found, "law", "dsmoe").splitlines() == [
        "1 expert of law by dsmoe, from 12 documents; 4 of 5 resamples name as many.",
        "Overlap (Jaccard): between resamples 0.50, by chance 0.25, with the full text's -",
        "",
        "| layer | expert | score | resamples that choose it |",
        "| --- | ---: | ---: | ---: |",
        "| 2 | 7 | 0.5 | 3 |",
    ]

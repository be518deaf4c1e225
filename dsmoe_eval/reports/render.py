"""Rendering of a finished run: `index.html` with its items, `report.md` and the pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jinja2

from ..files import locked, write_text
from ..results import RunFolder, read_finished
from ..results.finished import FinishedRun
from ..results.guards import read_guard
from ..results.schema import RunResult
from ..results.stability import StabilityResult
from . import page, run_text
from .items import clear_items, write_item_files
from .run_again import citation, run_again
from .run_agreement import agreement_table, agreements
from .run_arms import run_facets
from .run_base import base_scores
from .run_best import learned_settings, share_findings, share_table
from .run_claims import answers, generalization
from .run_controls import placebo_gains, repeated, terms
from .run_foretold import calibration_sentences, calibration_table
from .run_leaderboard import variants_table
from .run_outcomes import outcome_sections, primary_words
from .run_pictures import captioned, draw, draw_outcomes, pictures
from .run_plots import forests, plane
from .run_proofs import failed_warning, idle_sentences, proofs, training_costs
from .run_quantized import quantized_findings, quantized_gains
from .run_settings import probes, pruned, settings
from .run_similarity import similarity_losses, similarity_sentences
from .run_sites import steered_units, units_note
from .run_stability import overlap_table, spread_table, stability_findings, wordings_table
from .run_tables import by_domain, details, domain_details
from .table import markdown, write_markdown
from .unit_words import page_in_words_of


def render(folder: RunFolder, to: Path | None = None) -> Path:
    """Write the report of a run and return the path of `report.md`.

    `index.html` contains everything but the items, which are in `items/` beside it.

    Raises:
        UserError: the run has no comparisons yet, or is of another version, or a file is damaged or
            was changed, or another process works in the folder.
    """
    run = read_finished(folder.root)
    target = to or folder.report
    with locked(folder.root, target):
        return _write(folder, run, target)


def _write(folder: RunFolder, run: FinishedRun, target: Path) -> Path:
    result, stability = run.result, run.stability
    target.mkdir(parents=True, exist_ok=True)
    clear_items(target)
    shown = draw(folder, result, stability, target)
    units = steered_units(folder)
    said = _sentences(folder, result, units) | _tables(folder, result) | _spread(result, stability)
    sections = draw_outcomes(outcome_sections(result), target)
    said |= {"outcomes": sections, "root_hash": folder.root_hash}
    html = page.html_environment().get_template("report.html.j2")
    text = markdown_environment().get_template("report.md.j2")
    put = partial(page_in_words_of, units, names=_names(result))
    write_text(target / "index.html", put(html.render(said | _page(folder, result, target, shown))))
    drawn = captioned(folder, shown)
    write_markdown(target / "report.md", put(text.render(said, figures=drawn)))
    return target / "report.md"


def _names(result: RunResult) -> set[str]:
    """Return the names in a report that users and cards gave; their words stay."""
    own = {result.plan, result.suite, result.run.model, *result.variants, *result.suite_targets}
    return own | {name for row in result.base for name in (row.task, row.domain)}


def _sentences(folder: RunFolder, result: RunResult, units: str | None) -> dict[str, object]:
    command, remark = run_again(folder, result)
    return {
        "command": command,
        "command_remark": remark,
        "citation": citation(folder, result),
        "result": result,
        "units": units,
        "primary_words": primary_words(result),
        "findings": run_text.findings(result) + quantized_findings(result) + share_findings(result),
        "calibrations": calibration_sentences(result),
        "caveats": run_text.caveats(result)
        + repeated(folder, result)
        + idle_sentences(result)
        + similarity_sentences(result)
        + guard_notes(folder)
        + run_text.sharing_notes(folder, result)
        + units_note(units),
        "glossary": run_text.glossary(result),
        "failed_warning": failed_warning(result),
        "overlap_warning": run_text.overlap_warning(result),
        "leakage_check": run_text.leakage_check(result),
        "leakage_rules": run_text.leakage_rules(result),
    }


def guard_notes(folder: RunFolder) -> list[str]:
    """Return a sentence on super experts, if there are any or they were not looked for."""
    guard = read_guard(folder)
    return [guard.words] if guard is not None and guard.words is not None else []


def _tables(folder: RunFolder, result: RunResult) -> dict[str, object]:
    return {
        "leaderboard": variants_table(result),
        "base": base_scores(result),
        "over_placebo": placebo_gains(result),
        "shares": share_table(result),
        "learned": learned_settings(result),
        "terms": terms(result),
        "details": details(result),
        "settings": settings(result),
        "pruned": pruned(result),
        "agreement": agreement_table(agreements(folder, result)),
        "generalization": generalization(result),
        "foretold": calibration_table(result),
        "domains": by_domain(result),
        "domain_details": domain_details(result),
        "answers": answers(result),
        "probes": probes(result),
        "proofs": proofs(result),
        "training": training_costs(folder, result),
        "similarity": similarity_losses(result),
        "quantized": quantized_gains(result),
    }


def _spread(result: RunResult, stability: StabilityResult | None) -> dict[str, object]:
    """Return the part on the spread of the method; its sentences are among the findings."""
    if stability is None:
        return {"overlap": None, "spread_findings": []}
    return {
        "overlap": overlap_table(stability),
        "spread": spread_table(result, stability),
        "wordings": wordings_table(stability),
        "spread_findings": stability_findings(result, stability),
    }


def _page(
    folder: RunFolder, result: RunResult, target: Path, shown: list[str]
) -> dict[str, object]:
    """Return the content that only the HTML page shows."""
    return {
        "facets": run_facets(result),
        "forests": forests(result),
        "plane": plane(result),
        "pictures": pictures(folder, target, shown),
        "files": write_item_files(folder, result.base, result.arms, target, result.run.model),
    }


def markdown_environment() -> jinja2.Environment:
    """Return the environment of the Markdown templates; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("dsmoe_eval.reports"),
        autoescape=False,  # noqa: S701 - it would spoil Markdown; pages are `page.environment`'s
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["markdown"] = markdown
    return made

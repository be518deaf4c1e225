"""Renders the trial of identification methods: `README.md`, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json, write_text
from . import figures

FIGURE = "methods.png"


def render_trial(run_folder: Path, to: Path) -> Path:
    """Write the trial's page, its picture and its figures (`trial.json`) into `to`.

    Raises:
        UserError: the folder holds no finished trial.
    """
    path = run_folder / "trial.json"
    if not path.is_file():
        raise UserError(f"{run_folder} has no trial.json; finish the trial first")
    result = read_json(path)
    to.mkdir(parents=True, exist_ok=True)
    figures.style()
    figures.trial(result, to / FIGURE)
    write_json(to / "trial.json", result)
    write_text(to / "README.md", _page(result))
    return to / "README.md"


def verdict(result: dict[str, Any]) -> str:
    """Which method won, by the rules that `studies/trial.py` fixed."""
    methods = result["methods"]
    agreeing = max(methods, key=lambda row: row["agreement_specific"]["value"])
    holding = [row for row in methods if row["holds"]]
    sentence = (
        f"By rank agreement with the causal effects `{agreeing['method']}` wins "
        f"({agreeing['agreement_specific']['value']:.2f}). "
    )
    if not holding:
        return sentence + "By steering gain nobody does: no method kept every non-target."
    best = max(holding, key=lambda row: row["gain_over_placebo"]["delta"])
    low = best["gain_over_placebo"]["ci95"][0]
    sure = "is more than its placebo's" if low > 0 else "cannot be told from its placebo's"
    near = [
        row["method"]
        for row in holding
        if row is not best and row["gain_over_placebo"]["ci95"][1] >= low
    ]
    return (
        f"{sentence}By steering gain over matched random experts `{best['method']}` wins "
        f"({_points(best['gain_over_placebo'])}), which {sure}. "
        + (f"Its interval meets those of {', '.join(near)}." if near else "No other comes near.")
    )


def _page(result: dict[str, Any]) -> str:
    rows = sorted(result["methods"], key=lambda row: -row["gain_over_placebo"]["delta"])
    table = [
        "| method | agreement, specific | agreement, plain | gain over placebo, pp | "
        "gain over base, pp | placebo over base, pp | non-targets, pp | non-inferior |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in rows),
    ]
    gain = result["methods"][0]["gain"]
    lines = [
        "# The trial of identification methods",
        "",
        f"Model {result['model']['model']}, plan `{result['plan']}`. {verdict(result)}",
        "",
        f"![methods]({FIGURE})",
        "",
        *table,
        "",
        "**The truth by force.** Each of the "
        f"{result['experts']} experts in turn was masked, and the fall of the gold answer's "
        f"log-probability measured on {result['items']:,} answered questions (tuning split) of "
        f"{len(result['domains'])} domains. An expert's *specific* effect on a domain is that "
        "domain's loss minus the mean loss of the others; its *plain* effect is the loss alone.",
        "",
        "**Agreement** is Spearman's rank correlation between a method's scores and those effects "
        "over all experts, averaged over the domains; in brackets 95 % intervals from "
        f"{result['resamples']} resamples of documents and items. Random rankings stay below "
        f"{result['chance']:.3f} in size 95 times in 100.",
        "",
        "**Gain** is the pooled change of the targets' scores on the test split "
        f"({gain['items']:,} answers to {gain['questions']:,} questions), the intervals from "
        "resampling questions. All methods steer by `bias`, with number of experts and strength "
        "chosen by the same rule on the tuning split. The placebo of a method is as many random "
        "experts, of the same layers and like exposure, at the same strength.",
        "",
        "One small model whose only planted property is ambiguity: this says how the methods do "
        "here, not on real models.",
        "",
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    cells = [
        row["method"],
        _interval(row["agreement_specific"]),
        _interval(row["agreement_plain"]),
        _points(row["gain_over_placebo"]),
        _points(row["gain"]),
        _points(row["placebo_gain"]),
        f"{100 * row['non_target_delta']:+.1f}",
        "yes" if row["holds"] else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(figures: dict[str, Any]) -> str:
    low, high = figures["ci95"]
    return f"{figures['value']:.2f} [{low:.2f}, {high:.2f}]"


def _points(gain: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in gain["ci95"])
    return f"{100 * gain['delta']:+.1f} [{low:+.1f}, {high:+.1f}]"

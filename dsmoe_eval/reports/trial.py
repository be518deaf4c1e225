"""Rendering of the trial of identification methods: `README.md`, and a picture."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..files import locked, write_json
from ..results import RunFolder
from ..studies.results import AgreementRow, GainRow, MethodRow, TrialResult
from . import formats, study_figures
from .figures import style
from .table import Figure, Value, make_table, markdown, words, write_markdown
from .unit_words import in_words_of

FIGURE = "methods.png"
_INTERVAL = "{:.2f} [{:.2f}, {:.2f}]".format
_POINTS = formats.points_with_interval


def render_trial(run_folder: Path, to: Path) -> Path:
    """Write the trial's page, its picture and its figures (`trial.json`) into `to`.

    Raises:
        UserError: the folder has no finished trial.
    """
    path = run_folder / "trial.json"
    if not path.is_file():
        raise UserError(f"{run_folder} has no trial.json; finish the trial first")
    result: TrialResult = RunFolder(run_folder).read_json(path)
    with locked(run_folder, to):
        to.mkdir(parents=True, exist_ok=True)
        style()
        study_figures.trial(result, to / FIGURE)
        write_json(to / "trial.json", result)
        write_markdown(to / "README.md", in_words_of(result.get("units"), _page(result)))
    return to / "README.md"


def verdict(result: TrialResult) -> str:
    """Return the method that won, by the rules that `studies/trial.py` fixed."""
    methods = result["methods"]
    agreeing = max(methods, key=lambda row: row["agreement_specific"]["value"])
    holding = [row for row in methods if row["non_inferior"]]
    most = agreeing["agreement_specific"]["value"]
    wins = f"`{agreeing['method']}` wins ({most:.2f}). "
    if most < result["chance"]:
        wins = f"nobody wins: none is above random rankings ({result['chance']:.2f}). "
    sentence = f"By rank agreement with the causal effects {wins}"
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
        f"({_in_words(best['gain_over_placebo'])}), which {sure}. "
        + (f"Its interval meets those of {', '.join(near)}." if near else "No other comes near.")
    )


def _page(result: TrialResult) -> str:
    rows = sorted(result["methods"], key=lambda row: -row["gain_over_placebo"]["delta"])
    raised = all("raised_agreement_specific" in row for row in rows)
    table = make_table("methods", "", (*_METHODS[:3], *_RAISED[: 2 * raised], *_METHODS[3:]), rows)
    gain = result["methods"][0]["gain"]
    lines = [
        "# The trial of identification methods",
        "",
        f"Model {result['model']['model']}, plan `{result['plan']}`. {verdict(result)}"
        + _limited(result),
        "",
        f"![methods]({FIGURE})",
        "",
        markdown(table),
        _by_force(result) + _unscored(result),
        "",
        *((_raised(result), "") if raised else ()),
        _agreement_note(result),
        "",
        "**Gain** is the pooled change of the targets' scores on the test split "
        f"({gain['items']:,} answers to {gain['questions']:,} questions), the intervals from "
        f"resampling questions. All methods steer by {_interventions(result)}, with number of "
        "experts and strength chosen by the same rule on the tuning split. The placebo of a method "
        "is as many random experts, of the same layers and like exposure, at the same strength.",
        "",
        "One model: this says how the methods do here, not on others."
        if "units" in result
        else "One small model whose only planted property is ambiguity: this says how the methods "
        "do here, not on real models.",
        "",
    ]
    return "\n".join(lines)


def _limited(result: TrialResult) -> str:
    limit = result["model"].get("limit")
    if limit is None:
        return ""
    return f" Limited to {limit} item(s) of each task: a smoke test, not a result."


def _by_force(result: TrialResult) -> str:
    specific = (
        "specific* effect on a domain is that domain's loss minus the mean loss of the others; its "
        "*plain* effect is the loss alone."
    )
    measured = (
        "was masked, and the fall of the gold answer's log-probability measured on "
        f"{result['items']:,} answered questions (tuning split) of {len(result['domains'])} "
        "domains."
    )
    if "groups" not in result:
        each = f"Each of the {result['experts']} experts in turn"
        return f"**The truth by force.** {each} {measured} An expert's *{specific}"
    groups = result["groups"]
    return (
        f"**The truth by force.** There are {result['experts']:,} {result['units']}, too many to "
        "mask one by one. For each domain, each method's ranking of them was cut into "
        f"{groups['number']} groups of {groups['size']:,}: the best, the last, and others at even "
        f"distances between them. Each group in turn {measured} A group's *{specific}"
    )


def _unscored(result: TrialResult) -> str:
    if "unscored" not in result:
        return ""
    return (
        f" Nothing was measured on {', '.join(result['unscored'])}, of which there is no "
        "identification text."
    )


def _raised(result: TrialResult) -> str:
    if "units" not in result:
        return _RAISED_NOTE
    what = "group" if "groups" in result else "expert"
    return (
        f"**Raised.** The other way round, the activations of each {what} in turn were multiplied "
        "by 1.5, and the rise of the same log-probability measured."
    )


def _agreement_note(result: TrialResult) -> str:
    grouped = "groups" in result
    over = "all groups (a group's score is its members' mean)" if grouped else "all experts"
    return (
        "**Agreement** is Spearman's rank correlation between a method's scores and those effects "
        f"over {over}, averaged over the domains; in brackets 95 % intervals from "
        f"{result['resamples']} resamples of documents and items. Random rankings stay below "
        f"{result['chance']:.3f} in size 95 times in 100."
        + (" Each method is judged on its own groups." if grouped else "")
    )


def _interventions(result: TrialResult) -> str:
    return " or ".join(f"`{one}`" for one in result.get("interventions", ["bias"]))


def _in_words(gain: GainRow) -> str:
    return formats.points_with_interval(gain["delta"], *gain["ci95"])


def _agreement(figures: AgreementRow) -> Value:
    return figures["value"], *figures["ci95"]


def _points(gain: GainRow) -> Value:
    return gain["delta"], *gain["ci95"]


_RAISED_NOTE = (
    "**Raised.** The other way round, each expert in turn was raised by half a sigma (the spread "
    "of the layer's logits over experts), and the rise of the same log-probability measured. What "
    "an expert costs when it is masked and what it gives when it is raised need not be the same."
)
_RAISED: tuple[Figure[MethodRow], ...] = (
    Figure("raised, specific", lambda row: _agreement(row["raised_agreement_specific"]), _INTERVAL),
    Figure("raised, plain", lambda row: _agreement(row["raised_agreement_plain"]), _INTERVAL),
)
_METHODS: tuple[Figure[MethodRow], ...] = (
    words("method", lambda row: row["method"]),
    Figure("agreement, specific", lambda row: _agreement(row["agreement_specific"]), _INTERVAL),
    Figure("agreement, plain", lambda row: _agreement(row["agreement_plain"]), _INTERVAL),
    Figure("gain over placebo, pp", lambda row: _points(row["gain_over_placebo"]), _POINTS),
    Figure("gain over base, pp", lambda row: _points(row["gain"]), _POINTS),
    Figure("placebo over base, pp", lambda row: _points(row["placebo_gain"]), _POINTS),
    Figure("non-targets, pp", lambda row: row["non_target_delta"], formats.points),
    words("non-inferior", lambda row: "yes" if row["non_inferior"] else "no"),
)  # fmt: skip

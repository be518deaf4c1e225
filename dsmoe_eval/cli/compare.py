"""The command that compares two results from any source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from .copying import result_or_url
from .main import main
from .terminal import echo

if TYPE_CHECKING:
    from ..comparison.compare import Comparison
    from ..comparison.pairing import Unpaired
    from ..comparison.readers.answers import Match
    from ..stats import PairedResult

_EXAMPLES = """\b
  dsmoe-eval compare out/lab:base out/lab:contrast:math
  dsmoe-eval compare lm_eval_out/base lm_eval_out/tuned --metric acc
  dsmoe-eval compare lm_eval_out/base lm_eval_out/tuned --metric gold_logprob
  dsmoe-eval compare base.eval steered.eval
  dsmoe-eval compare a.csv b.parquet --id question_id
  dsmoe-eval compare wide.csv:MODEL_A wide.csv:MODEL_B --id question_id --gold answer
"""


class _Columns(TypedDict):
    """The options that are fields of `Selection`."""

    id: str | None
    score: str | None
    gold: str | None
    domain: str | None
    cluster: str | None
    sample: str | None
    task: str | None
    metric: str | None
    filter: str | None
    missing_value: str | None
    no_missing_value: bool
    match: Match | None
    items: Path | None


@main.command("compare", epilog=_EXAMPLES)
@click.argument("a", type=result_or_url)
@click.argument("b", type=result_or_url)
@click.option("--id", help="Column that names an item, to pair by it and not by content.")
@click.option("--score", help="Column of the scores, more is better [score].")
@click.option("--gold", help="Column of right answers; the score columns then hold answers, which"
              " must match exactly unless --match says otherwise.")  # fmt: skip
@click.option("--match", type=click.Choice(["exact", "number", "casefold-strip"]),
              help="How answers match --gold: the same text [exact]; the same number, however it"
              " is written; the same text apart from case and blanks.")  # fmt: skip
@click.option("--domain", help="Column of the domain [domain; of lm-eval the task].")
@click.option("--cluster", help="Column whose value is shared by items that are not independent.")
@click.option("--sample", help="Column that tells samples of one item apart [sample].")
@click.option("--items", type=click.Path(path_type=Path),
              help="A table with more of these columns, joined by --id.")  # fmt: skip
@click.option("--missing-value", metavar="VALUE",
              help="Score or answer of an item that was not put to the model.")  # fmt: skip
@click.option("--no-missing-value", is_flag=True,
              help='No item is missing: "None", "N/A" and the like are answers.')  # fmt: skip
@click.option("--task", help="Only this task.")
@click.option("--metric", help="The metric, if there are several. Of scored options also"
              " gold_logprob, or gold_logprob_norm, which divides by the length as acc_norm does;"
              " of whole texts bits_per_byte.")  # fmt: skip
@click.option("--filter", help="lm-eval's filter, if there are several: its name, or its number"
              " (from 1) in samples that do not name it.")  # fmt: skip
@click.option("--margin", type=float,
              help="The largest difference that does not matter, in the unit of the scores"
              " [0.02; of gold_logprob 0.05].")  # fmt: skip
@click.option("--lower-is-better", is_flag=True,
              help="Lower scores are better; bits_per_byte says so itself.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def compare_command(
    a: str,
    b: str,
    margin: float | None,
    lower_is_better: bool,
    as_json: bool,
    **columns: Unpack[_Columns],
) -> None:
    """Compare B with the baseline A, item by item: by domain and pooled.

    A and B are each a run and its variant (RUN:base, RUN:variant:target; RUN may be a copy's URL),
    a cell's folder, lm-eval's results folder or samples_*.jsonl, an Inspect log (.eval, .json), or
    a table (Parquet, CSV, TSV, JSONL, a JSON list of records; or a folder of tables) with columns
    item and score, perhaps domain, cluster, sample; FILE:COLUMN names the column of the scores.
    Items are paired by content, or by the column that --id names.
    """
    from ..comparison import Selection
    from ..comparison.compare import compare

    comparison = compare(a, b, Selection(**columns), margin=margin, lower_is_better=lower_is_better)
    echo(json.dumps(comparison.to_dict(), allow_nan=False) if as_json else as_text(comparison))


def as_text(comparison: Comparison) -> str:
    """Return the comparison as text for a person."""
    lines = [f"A  {comparison.a}", f"B  {comparison.b}"]
    lines += ["lower is better; delta is positive for the better"] * comparison.lower_is_better
    unpaired_a, unpaired_b = comparison.unpaired_a, comparison.unpaired_b
    lines += [f"unpaired: {_unpaired(unpaired_a, 'A')}, {_unpaired(unpaired_b, 'B')}"]
    lines += [f"warning: {warning}" for warning in comparison.warnings]
    for domain in comparison.domains:
        p_value = f"p {domain.result.p_value:.2g}, {domain.p_adjusted:.2g} by Holm"
        lines += ["", *_block(domain.domain, domain.result, p_value, domain.words)]
    pooled = comparison.pooled
    lines += ["", *_block("all", pooled, f"p {pooled.p_value:.2g}", comparison.words)]
    if comparison.conflicting:
        lines.append("warning: domains differ significantly in both directions; the pool describes"
                     " neither")  # fmt: skip
    elif comparison.opposed:
        names = ", ".join(comparison.opposed)
        lines.append(f"warning: changed in the other direction than all items together: {names}")
    return "\n".join(lines)


def _unpaired(side: Unpaired, name: str) -> str:
    if not side.n:
        return f"{name} none"
    reasons = ", ".join(f"{n} {_REASONS[reason]}" for reason, n in side.reasons.items())
    more = ", ..." if side.n > len(side.first) else ""
    return f"{name} {side.n} ({reasons}: {', '.join(side.first)}{more})"


_REASONS = {
    "gold": "with another right answer",
    "question": "with another prompt or options",
    "absent": "not on the other side",
    "unscored": "without a score",
}


def _block(name: str, result: PairedResult, p_value: str, words: str) -> list[str]:
    clusters = f" in {result.clusters} clusters" if result.clusters < result.n else ""
    lower, upper = result.ci95
    interval = "no interval" if lower != lower else f"95 % interval {lower:+.4f} to {upper:+.4f}"
    mde = "none" if result.mde80 != result.mde80 else f"{result.mde80:.4f}"
    return [
        f"{name}: {words}",
        f"  n {result.n}{clusters}, A {result.score_a:.4f}, B {result.score_b:.4f}, "
        f"delta {result.delta:+.4f}, {interval}",
        f"  {p_value} ({result.test}), gained {result.gained}, lost {result.lost}, mde80 {mde}",
    ]

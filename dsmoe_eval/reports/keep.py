"""Rendering of keep-k curves: a page with a table, the curves by domain, the figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..files import write_json
from ..studies.keep_rows import ALL, KINDS, RANDOM, KeepResult, KeepRow, KeptFigures, OutcomeKind
from . import formats
from .figures import save, style, subplots
from .table import Figure, Table, Value, make_table, markdown, otherwise, words, write_markdown

PICTURE = "keep.png"
_LABELS: dict[OutcomeKind, str] = {
    "score": "score", "gold_logprob": "right option, nats",
}  # fmt: skip
_MARKERS = "osD^vP*X<>"


def render_keep(result: KeepResult, target: Path) -> Path:
    """Write `keep.json`, `keep.md` and `keep.png` into a folder; return the page's path."""
    write_json(target / "keep.json", result)
    style()
    _curves(result, target / PICTURE)
    page = target / "keep.md"
    write_markdown(page, keep_page(result, picture=True))
    return page


def keep_page(result: KeepResult, *, picture: bool = False) -> str:
    """Return the page in Markdown; everything in it follows from `keep.json`."""
    domains = [row["domain"] for row in result["base"] if row["domain"] != ALL]
    curves = f"![Outcomes against the share of experts kept, by domain]({PICTURE})"
    parts = [
        f"# How much of {result['model']} a domain needs",
        _about(result),
        "\n".join(f"- {finding}" for finding in _findings(result)),
        *([curves] if picture else []),
        f"## {ALL.capitalize()}",
        markdown(_table(result, ALL)).rstrip(),
        *(f"## {domain}\n\n{markdown(_table(result, domain)).rstrip()}"
          for domain in domains),
        "## How to read this",
        "\n".join(f"- {note}" for note in _NOTES),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


_NOTES = (
    "A row is a pruned model: each layer keeps its best experts by the method, ranked for the "
    "domain on the identification text, and the others are masked, which equals a checkpoint "
    "without them. The answers are those of the test split.",
    "random: as many random experts of each layer, the mean over the draws.",
    "selections kept: the share of base's routing, over the identification text of all domains, "
    "that falls on the experts that are kept.",
    "Changes and intervals are on the same items, over whole clusters; those over random hold for "
    "new items and new draws. They are 95 % intervals of single rows, not adjusted for their "
    "number.",
    "The log-probability is the mean over the items with options; generated answers have none.",
    "Nothing was chosen by these figures: no method, no number of experts.",
)


def _about(result: KeepResult) -> str:
    items = "all items" if result["items"] is None else f"at most {result['items']} items per task"
    left = ""
    if result["left_out"]:
        left = f" Left out, for lack of identification text: {', '.join(result['left_out'])}."
    if result["spared"]:
        named = ", ".join(f"layer {layer} expert {one}" for layer, one in result["spared"])
        left += f" Super experts, which every model keeps first: {named}."
    return (
        f"Suite {result['suite']}, {result['role']} tasks, {items}; {len(result['layers'])} layers "
        f"of {result['experts']} experts, {result['top_k']} for each token; "
        f"{result['draws']} draws of random experts, seed {result['seed']}.{left}"
    )


def _findings(result: KeepResult) -> Iterator[str]:
    base = next(row for row in result["base"] if row["domain"] == ALL)
    gold = base["gold_logprob"]
    nats = "" if gold is None else f", {gold:.3f} nats"
    yield f"Base: score {base['score']:.1%}{nats} ({base['items']:,} items of all domains)."
    for kept in dict.fromkeys(row["kept"] for row in result["rows"]):
        rows = [one for one in result["rows"] if (one["domain"], one["kept"]) == (ALL, kept)]
        kind: OutcomeKind = "score" if rows[0]["gold_logprob"] is None else "gold_logprob"
        ranked = sorted(rows, key=lambda row: -_of(row, kind)["value"])
        show = formats.pp if kind == "score" else "{:+.3f} nats".format
        said = "; ".join(f"{row['method']} {show(_of(row, kind)['change'])}" for row in ranked)
        share = f"{kept} of {result['experts']} experts kept ({kept / result['experts']:.0%})"
        yield f"{share}: {said}."


def _of(row: KeepRow, kind: OutcomeKind) -> KeptFigures:
    figures = row[kind]
    if figures is None:
        raise ValueError(f"{row['domain']} has no {kind}")
    return figures


def _table(result: KeepResult, domain: str) -> Table:
    rows = [row for row in result["rows"] if row["domain"] == domain]
    return make_table("keep", "", _COLUMNS, rows)


def _with_interval(kind: OutcomeKind, name: str) -> Figure[KeepRow]:
    """Return a column of a difference and its interval."""
    over = name == "over_random"
    title = f"{'over random' if over else 'change'}, {'pp' if kind == 'score' else 'nats'}"
    show = formats.points_with_interval if kind == "score" else _NATS

    def value(row: KeepRow) -> Value:
        figures = row[kind]
        if figures is None:
            return "-"
        number = figures["over_random"] if over else figures["change"]
        ends = figures["over_random_ci95"] if over else figures["change_ci95"]
        return "-" if number is None or ends is None else (number, *ends)

    return Figure(title, value, show)


_NATS = "{:+.3f} [{:+.3f}, {:+.3f}]".format


def _logprob(row: KeepRow) -> Value:
    figures = row["gold_logprob"]
    return otherwise(None if figures is None else figures["value"], "-")


_COLUMNS: tuple[Figure[KeepRow], ...] = (
    words("method", lambda row: row["method"]),
    Figure("kept", lambda row: row["kept"]),
    Figure("selections kept", lambda row: row["exposure_kept"], formats.percent),
    Figure("score", lambda row: row["score"]["value"], formats.percent),
    _with_interval("score", "change"),
    _with_interval("score", "over_random"),
    Figure("log-probability", _logprob, "{:.3f}".format),
    _with_interval("gold_logprob", "change"),
    _with_interval("gold_logprob", "over_random"),
)


def _curves(result: KeepResult, path: Path) -> None:
    """Draw the outcomes against the share of experts kept, one row of panels per domain."""
    bases = sorted(result["base"], key=lambda row: row["domain"] != ALL)
    kinds = [kind for kind in KINDS if any(base[kind] is not None for base in bases)]
    height = 1.2 + 2.3 * len(bases)
    figure, panels = subplots(len(bases), len(kinds), 5.5 * len(kinds), height, sharex=True)
    for line, base in zip(panels, bases, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            if base[kind] is None:
                axis.set_axis_off()
                continue
            axis.axhline(base[kind], color="black", linewidth=1, label="base")
            _lines(axis, result, base["domain"], kind)
            axis.set_title(f"{base['domain']} (n = {base['items']:,})", loc="left")
            axis.set_ylabel(_LABELS[kind])
            if kind == "score":
                axis.set_ylim(-0.05, 1.05)
    for column in panels.T:
        last = [axis for axis in column if axis.axison][-1]
        last.set_xlabel(f"share of each layer's {result['experts']} experts that is kept")
        last.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        last.tick_params(labelbottom=True)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    save(figure, path)


def _lines(axis: Axes, result: KeepResult, domain: str, kind: OutcomeKind) -> None:
    """Draw a line per method, with the intervals of its changes."""
    base = next(row[kind] for row in result["base"] if row["domain"] == domain) or 0.0
    colours = sns.color_palette("colorblind", len(result["methods"]))
    looks = {RANDOM: ("0.5", ".", ":")} | {
        name: (colour, _MARKERS[at % len(_MARKERS)], "-")
        for at, (name, colour) in enumerate(zip(result["methods"], colours, strict=True))
    }
    for name, (colour, marker, dash) in looks.items():
        rows = [r for r in result["rows"] if (r["domain"], r["method"]) == (domain, name)]
        shares = [1.0, *(row["share"] for row in rows)]
        values = [base, *(_of(row, kind)["value"] for row in rows)]
        axis.plot(shares, values, color=colour, marker=marker, linestyle=dash, label=name)
        for row in rows:
            ends = _of(row, kind)["change_ci95"]
            if ends is not None:
                axis.vlines(row["share"], *(np.array(ends) + base), color=colour, alpha=0.4)

"""Renders the existence test: `existence.json`, `existence.md` and `existence.png`.

Text and figure follow from the result and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from . import figures
from .render import environment
from .tables import Grid

EXPERTS_SHOWN = 5
"""A domain, in the page."""


def render_existence(result: dict[str, Any], to: Path) -> Path:
    """Write the result of `existence_of` into a folder and return the path of `existence.md`."""
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "existence.json", result)
    figures.style()
    figures.existence_map(result, to / "existence.png")
    page = environment().get_template("existence.md.j2")
    values = {
        "result": result,
        "findings": findings(result),
        "domains": by_domain(result),
        "experts": top_experts(result),
        "shown": f"The {EXPERTS_SHOWN} with the largest excess use of each domain.",
    }
    write_text(to / "existence.md", page.render(values))
    return to / "existence.md"


def findings(result: dict[str, Any]) -> list[str]:
    """The verdict: what exists, what of it exceeds random weights, what could not be seen."""
    rows = result["domains"]
    found = sum(len(row["specific"]) for row in rows)
    basis = (
        f"{result['hypotheses']:,} tested (layer, expert, domain), at a false discovery rate of "
        f"{result['level']:.0%} with {result['permutations']:,} shuffles of the documents' labels"
    )
    if not found:
        return [
            f"No expert is specific to any domain, of {basis}. That is no proof that there are "
            f"none: fewer than {result['fewest_discoveries']} could not be declared, and "
            "differences may be too small for so many documents.",
            *_limited(result),
        ]
    with_any = [row["domain"] for row in rows if row["specific"]]
    said = [
        f"Experts are specific to a domain in {len(with_any)} of {len(rows)} domains: {found} "
        f"discoveries of {basis}.",
        _beyond(result),
        _untrained(result, found),
    ]
    without = [row["domain"] for row in rows if not row["specific"]]
    if without:
        said.append(f"Nothing was found for {', '.join(without)}.")
    return [*said, *_limited(result)]


def _beyond(result: dict[str, Any]) -> str:
    beyond = {row["domain"]: row["exceeding"] for row in result["domains"] if row["exceeding"]}
    if not beyond:
        return (
            "None of them exceeds random weights: no excess use is larger than the largest of an "
            "untrained expert for the same domain. Learned specialisation beyond vocabulary is "
            "not shown."
        )
    each = ", ".join(f"{domain} {count}" for domain, count in beyond.items())
    return (
        f"{sum(beyond.values())} of them exceed random weights ({each}): their excess use is "
        "larger than that of any untrained expert for the domain. That the others are more than "
        "vocabulary is not shown."
    )


def _untrained(result: dict[str, Any], found: int) -> str:
    rows, seeds = result["domains"], range(len(result["random_seeds"]))
    totals = [sum(row["random_specific"][seed] for row in rows) for seed in seeds]
    return (
        f"The same test on {len(totals)} model(s) of the same shape with random weights makes "
        f"{', '.join(map(str, totals))} discoveries (this model: {found})."
    )


def _limited(result: dict[str, Any]) -> list[str]:
    if result["limit"] is None:
        return []
    return [f"Limited to {result['limit']} texts a task: a rehearsal, not a result."]


def by_domain(result: dict[str, Any]) -> Grid:
    """One row a domain."""
    header = (
        "domain", "documents", "tokens", "specific experts", "beyond random weights",
        "specific in random weights", "largest excess use, pp", "largest in random weights, pp",
        "stability",
    )  # fmt: skip
    rows = []
    for row in result["domains"]:
        specific, random = row["specific"], row["random_specific"]
        rows.append((
            row["domain"], f"{row['documents']:,}", f"{row['tokens']:,}", str(len(specific)),
            str(row["exceeding"]), ", ".join(map(str, random)),
            f"{100 * specific[0]['difference']:.1f}" if specific else "",
            f"{100 * row['random_largest']:.1f}",
            f"{row['stability']:.2f} ({row['stability_by_chance']:.2f})" if specific else "",
        ))  # fmt: skip
    return Grid(header, tuple(rows))


def top_experts(result: dict[str, Any]) -> Grid:
    """The specific experts with the largest excess use, a few of each domain."""
    header = (
        "domain", "layer", "expert", "rate", "rest's rate", "excess use, pp", "95 % interval",
        "lift", "95 % interval", "p (adjusted)", "beyond random weights",
    )  # fmt: skip
    rows = [
        (
            row["domain"], str(one["layer"]), str(one["expert"]),
            f"{one['rate']:.1%}", f"{one['rest_rate']:.1%}", f"{100 * one['difference']:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * bound for bound in one["difference_ci95"])),
            f"{one['lift']:.2f}", "{:.2f} to {:.2f}".format(*one["lift_ci95"]),
            f"{one['p_adjusted']:.4f}", "yes" if one["exceeds_random"] else "no",
        )
        for row in result["domains"]
        for one in row["specific"][:EXPERTS_SHOWN]
    ]  # fmt: skip
    return Grid(header, tuple(rows))

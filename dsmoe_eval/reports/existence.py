"""Rendering of the existence test: `existence.json`, `existence.md` and `existence.png`.

Text and figure follow from the result and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import write_json
from ..studies.results import DomainExistenceRow, ExistenceResult, SpecificExpertRow
from . import formats, study_figures
from .figures import style
from .render import markdown_environment
from .table import Figure, Table, Value, make_table, words, write_markdown

EXPERTS_SHOWN = 5
"""The number of experts per domain that the page shows."""


def render_existence(result: ExistenceResult, to: Path) -> Path:
    """Write the result of `existence_of` into a folder; return the path of `existence.md`."""
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "existence.json", result)
    style()
    study_figures.existence_map(result, to / "existence.png")
    page = markdown_environment().get_template("existence.md.j2")
    values = {
        "result": result,
        "findings": existence_findings(result),
        "domains": specific_by_domain(result),
        "experts": top_experts(result),
        "shown": f"The {EXPERTS_SHOWN} with the largest excess use of each domain.",
    }
    write_markdown(to / "existence.md", page.render(values))
    return to / "existence.md"


def existence_findings(result: ExistenceResult) -> list[str]:
    """Return the verdict: what exists, what exceeds random weights, what could not be seen."""
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


def _beyond(result: ExistenceResult) -> str:
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


def _untrained(result: ExistenceResult, found: int) -> str:
    rows, seeds = result["domains"], range(len(result["random_seeds"]))
    totals = [sum(row["random_specific"][seed] for row in rows) for seed in seeds]
    return (
        f"The same test on {len(totals)} model(s) of the same shape with random weights makes "
        f"{', '.join(map(str, totals))} discoveries (this model: {found})."
    )


def _limited(result: ExistenceResult) -> list[str]:
    if result["limit"] is None:
        return []
    return [f"Limited to {result['limit']} texts a task: a smoke test, not a result."]


_DOMAINS: tuple[Figure[DomainExistenceRow], ...] = (
    words("domain", lambda row: row["domain"]),
    Figure("documents", lambda row: row["documents"], formats.thousands),
    Figure("tokens", lambda row: row["tokens"], formats.thousands),
    Figure("specific experts", lambda row: len(row["specific"])),
    Figure("beyond random weights", lambda row: row["exceeding"]),
    words("specific in random weights", lambda row: ", ".join(map(str, row["random_specific"]))),
    Figure("largest excess use, pp",
        lambda row: row["specific"][0]["difference"] if row["specific"] else None, formats.size),
    Figure("largest in random weights, pp", lambda row: row["random_largest"], formats.size),
    Figure("stability", lambda row: _stability(row) if row["specific"] else None,
        "{:.2f} ({:.2f})".format),
)  # fmt: skip


def _stability(row: DomainExistenceRow) -> Value | None:
    own, by_chance = row["stability"], row["stability_by_chance"]
    return None if own is None or by_chance is None else (own, by_chance)


def specific_by_domain(result: ExistenceResult) -> Table:
    """Return one row per domain."""
    return make_table("domains", "", _DOMAINS, result["domains"])


Specific = tuple[str, SpecificExpertRow]
"""A domain, and an expert that is specific to it."""


def _expert(
    name: str, value: Callable[[SpecificExpertRow], Value], show: Callable[..., str] = str
) -> Figure[Specific]:
    return Figure(name, lambda subject: value(subject[1]), show)


_EXPERTS: tuple[Figure[Specific], ...] = (
    words("domain", lambda subject: subject[0]),
    _expert("layer", lambda one: one["layer"]),
    _expert("expert", lambda one: one["expert"]),
    _expert("rate", lambda one: one["rate"], formats.percent),
    _expert("rest's rate", lambda one: one["rest_rate"], formats.percent),
    _expert("excess use, pp", lambda one: one["difference"], formats.size),
    _expert("95 % interval", lambda one: tuple(one["difference_ci95"]), formats.sizes),
    _expert("lift", lambda one: one["lift"], formats.hundredths),
    _expert("95 % interval", lambda one: tuple(one["lift_ci95"]), "{:.2f} to {:.2f}".format),
    _expert("p (adjusted)", lambda one: one["p_adjusted"], "{:.4f}".format),
    words("beyond random weights", lambda subject: "yes" if subject[1]["exceeds_random"] else "no"),
)  # fmt: skip


def top_experts(result: ExistenceResult) -> Table:
    """Return the specific experts with the largest excess use, a few per domain."""
    shown = [
        (row["domain"], one) for row in result["domains"] for one in row["specific"][:EXPERTS_SHOWN]
    ]
    return make_table("experts", "", _EXPERTS, shown)

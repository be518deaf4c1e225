"""Rendering of the existence test: `existence.json`, `existence.md` and `existence.png`.

Text and figure follow from the result and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import write_json
from ..studies.results import (
    Basis,
    Control,
    ControlRow,
    DomainExistenceRow,
    ExistenceResult,
    SpecificExpertRow,
)
from . import formats, study_figures
from .figures import style
from .render import markdown_environment
from .table import Figure, Table, Value, make_table, words, write_markdown
from .unit_words import in_words_of

EXPERTS_SHOWN = 5
"""The number of experts per domain that the page shows."""
SHOWN_AT = 0.05
"""The p-value up to which the page calls a difference from a control shown."""
CONTROLS: dict[Control, str] = {"random": "random weights", "shuffled": "shuffled routers"}


def render_existence(result: ExistenceResult, to: Path) -> Path:
    """Write one test of `existence_maps` into a folder; return the path of `existence.md`."""
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "existence.json", result)
    style()
    study_figures.existence_map(result, to / "existence.png")
    page = markdown_environment().get_template("existence.md.j2")
    values = {
        "result": result,
        "findings": [*units_finding(result), *existence_findings(result)],
        "domains": specific_by_domain(result),
        "beyond": beyond_by_domain(result),
        "experts": top_experts(result),
        "shown": f"The {EXPERTS_SHOWN} with the largest t of each domain.",
    }
    write_markdown(to / "existence.md", in_words_of(result.get("units"), page.render(values)))
    return to / "existence.md"


def existence_findings(result: ExistenceResult) -> list[str]:
    """Return the verdict: what exists, what the controls explain, what could not be seen."""
    rows = result["domains"]
    found = sum(_number(row) for row in rows)
    basis = (
        f"{result['hypotheses']:,} tested (layer, expert, domain), at a false discovery rate of "
        f"{result['level']:.0%} with {result['permutations']:,} shuffles of the documents' labels"
    )
    if not found:
        return [
            f"No expert is specific to any domain, of {basis}. That is no proof that there are "
            f"none: fewer than {result['fewest_discoveries']:,} could not be declared, and "
            "differences may be too small for so many documents.",
            *_limited(result),
        ]
    with_any = [row["domain"] for row in rows if _number(row)]
    said = [
        f"Experts are specific to a domain in {len(with_any)} of {len(rows)} domains: {found} "
        f"discoveries of {basis}.",
        *(_beside(result, kind, found) for kind in CONTROLS),
    ]
    without = [row["domain"] for row in rows if not _number(row)]
    if without:
        said.append(f"Nothing was found for {', '.join(without)}.")
    return [*said, *_limited(result)]


def _number(row: DomainExistenceRow) -> int:
    """Return how many experts are specific to a domain; of neurons, not all are listed."""
    return sum(row["by_layer"])


def units_finding(result: ExistenceResult) -> list[str]:
    """Return a sentence that says what the units are, unless they are experts."""
    if "units" not in result:
        return []
    every, found = result["experts"] * len(result["layers"]), result["domains"]
    shares = [_number(row) / every for row in found]
    return [
        f"The model is dense: its units are {result['units']}, {every:,} in all. The share of them "
        f"that is specific to a domain is {min(shares):.1%} to {max(shares):.1%}.",
    ]


def _beside(result: ExistenceResult, kind: Control, found: int) -> str:
    """Return what the comparison with one kind of control shows, by strength and by number."""
    models, beside, name = result["control_models"], result["controls"][kind], CONTROLS[kind]
    each = {row["domain"]: row["controls"][kind]["beyond"] for row in result["domains"]}
    listed = ", ".join(f"{domain} {count}" for domain, count in each.items() if count)
    strength = (
        f"{sum(each.values())} of them have a larger t than any expert for the domain in {models} "
        f"model(s) with {name} ({listed}); p of such experts in {beside['domains_beyond']} of "
        f"{len(each)} domains is at most {beside['p_by_strength']:.2g}"
        if listed
        else f"none of them has a larger t than the largest for the domain in {models} model(s) "
        f"with {name}"
    )
    counts = beside["discoveries"]
    return (
        f"Beside {name}: {strength}. By number, this model has {found} and they have {min(counts)} "
        f"to {max(counts)} (p = {beside['p_by_number']:.2g}). {_verdict(result, kind)}"
    )


def _verdict(result: ExistenceResult, kind: Control) -> str:
    beside, name = result["controls"][kind], CONTROLS[kind]
    ways = {"strength": beside["p_by_strength"], "number": beside["p_by_number"]}
    shown = " and by ".join(way for way, p_value in ways.items() if p_value <= SHOWN_AT)
    if shown:
        return f"More specialised than {name}: shown, by {shown}."
    least = 1 / (result["control_models"] + 1)
    if least > SHOWN_AT:
        return (
            f"So few models cannot show more than {name} have: p is never below {least:.2g} (see "
            "`--controls`)."
        )
    return f"More specialised than {name}: not shown."


def _limited(result: ExistenceResult) -> list[str]:
    if result["limit"] is None:
        return []
    return [f"Limited to {result['limit']} texts a task: a smoke test, not a result."]


def _beyond(
    kind: Control, name: str, value: Callable[[ControlRow], Value | None], show: Callable[..., str]
) -> Figure[DomainExistenceRow]:
    return Figure(name.format(CONTROLS[kind]), lambda row: value(row["controls"][kind]), show)


def _specific(row: ControlRow) -> Value:
    return (min(row["specific"]), max(row["specific"]))


def _t(statistic: float | None) -> Value:
    return "infinite" if statistic is None else statistic


_DOMAINS: tuple[Figure[DomainExistenceRow], ...] = (
    words("domain", lambda row: row["domain"]),
    Figure("documents", lambda row: row["documents"], formats.thousands),
    Figure("tokens", lambda row: row["tokens"], formats.thousands),
    Figure("specific experts", lambda row: _number(row)),
    _beyond("random", "in {}", _specific, "{} to {}".format),
    _beyond("shuffled", "with {}", _specific, "{} to {}".format),
    Figure("stability", lambda row: _stability(row) if row["specific"] else None,
        "{:.2f} ({:.2f})".format),
)  # fmt: skip
_BEYOND: tuple[Figure[DomainExistenceRow], ...] = (
    words("domain", lambda row: row["domain"]),
    Figure("largest t", lambda row: _t(row["largest_statistic"]), formats.decimal),
    _beyond("random", "in {}", lambda row: _t(row["largest_statistic"]), formats.decimal),
    _beyond("shuffled", "with {}", lambda row: _t(row["largest_statistic"]), formats.decimal),
    _beyond("random", "specific experts beyond {}", lambda row: row["beyond"], str),
    _beyond("shuffled", "beyond {}", lambda row: row["beyond"], str),
)


def _largest(
    name: str, unit: str, show: Callable[[float], str]
) -> tuple[Figure[DomainExistenceRow], ...]:
    """Return the columns of the largest excess, in a unit."""
    return (
        Figure(f"largest excess {name}, {unit}", lambda row: max(
            (one["difference"] for one in row["specific"]), default=None), show),
        _beyond("random", f"in {{}}, {unit}", lambda row: row["largest"], show),
        _beyond("shuffled", f"with {{}}, {unit}", lambda row: row["largest"], show),
    )  # fmt: skip


def _millinats(value: float) -> str:
    return f"{1000 * value:.2f}"


def _millinat_ends(low: float, high: float) -> str:
    return f"{_millinats(low)} to {_millinats(high)}"


_BEYOND_BY: dict[Basis, tuple[Figure[DomainExistenceRow], ...]] = {
    "counts": (*_BEYOND, *_largest("use", "pp", formats.size)),
    "influence": (*_BEYOND, *_largest("influence", "mnat", _millinats)),
}


def _stability(row: DomainExistenceRow) -> Value | None:
    own, by_chance = row["stability"], row["stability_by_chance"]
    return None if own is None or by_chance is None else (own, by_chance)


def specific_by_domain(result: ExistenceResult) -> Table:
    """Return the number of specific experts, one row per domain."""
    return make_table("domains", "", _DOMAINS, result["domains"])


def beyond_by_domain(result: ExistenceResult) -> Table:
    """Return the strength of the experts beside the controls', one row per domain."""
    return make_table("beyond", "", _BEYOND_BY[basis_of(result)], result["domains"])


def basis_of(result: ExistenceResult) -> Basis:
    """Return the basis of the test."""
    return result.get("by", "counts")


Specific = tuple[str, SpecificExpertRow]
"""A domain, and an expert that is specific to it."""


def _expert(
    name: str, value: Callable[[SpecificExpertRow], Value | None], show: Callable[..., str] = str
) -> Figure[Specific]:
    return Figure(name, lambda subject: value(subject[1]), show)


_EXPERTS: tuple[Figure[Specific], ...] = (
    words("domain", lambda subject: subject[0]),
    _expert("layer", lambda one: one["layer"]),
    _expert("expert", lambda one: one["expert"]),
)
_USE: tuple[Figure[Specific], ...] = (
    _expert("rate", lambda one: one["rate"], formats.percent),
    _expert("rest's rate", lambda one: one["rest_rate"], formats.percent),
    _expert("excess use, pp", lambda one: one["difference"], formats.size),
    _expert("95 % interval", lambda one: tuple(one["difference_ci95"]), formats.sizes),
    _expert("t", lambda one: _t(one["statistic"]), formats.decimal),
    _expert("lift", lambda one: one["lift"], formats.hundredths),
    _expert("95 % interval", lambda one: one["lift_ci95"] and tuple(one["lift_ci95"]),
        "{:.2f} to {:.2f}".format),
)  # fmt: skip
_INFLUENCE: tuple[Figure[Specific], ...] = (
    _expert("influence, mnat", lambda one: one["rate"], _millinats),
    _expert("on the rest, mnat", lambda one: one["rest_rate"], _millinats),
    _expert("excess, mnat", lambda one: one["difference"], _millinats),
    _expert("95 % interval", lambda one: tuple(one["difference_ci95"]), _millinat_ends),
    _expert("t", lambda one: _t(one["statistic"]), formats.decimal),
)
_BESIDE: tuple[Figure[Specific], ...] = (
    _expert("p (adjusted)", lambda one: one["p_adjusted"], "{:.4f}".format),
    words("beyond", lambda subject: ", ".join(
        name for kind, name in CONTROLS.items() if subject[1]["beyond"][kind])),
)  # fmt: skip
_EXPERTS_BY: dict[Basis, tuple[Figure[Specific], ...]] = {
    "counts": (*_EXPERTS, *_USE, *_BESIDE),
    "influence": (*_EXPERTS, *_INFLUENCE, *_BESIDE),
}


def top_experts(result: ExistenceResult) -> Table:
    """Return the specific experts with the largest t, a few per domain."""
    shown = [
        (row["domain"], one) for row in result["domains"] for one in row["specific"][:EXPERTS_SHOWN]
    ]
    return make_table("experts", "", _EXPERTS_BY[basis_of(result)], shown)

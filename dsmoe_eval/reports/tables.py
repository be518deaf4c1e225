"""The report's tables and sentences: text made from `comparisons.json` and nothing else.

Everything shown follows from the file; differences are in percentage points (pp).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..lab import EMBEDDED_MODELS
from ..tasks.leakage import leakage_counts
from ..variants import BASE, get_variant

Arm = dict[str, Any]
_UNREAD = 0.5
"""Share of a task's answers."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: header cells, and rows of cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def variants_of(result: dict[str, Any]) -> list[str]:
    """Compared variants, in the order of the plan."""
    return list(dict.fromkeys(arm["variant"] for arm in result["arms"]))


def targets_of(result: dict[str, Any]) -> list[str]:
    """Targets, in the order of the plan."""
    return list(dict.fromkeys(arm["target"] for arm in result["arms"]))


def arms_of(result: dict[str, Any], variant: str) -> list[Arm]:
    """A variant's arms, one a target."""
    return [arm for arm in result["arms"] if arm["variant"] == variant]


def improves(arm: Arm, alpha: float) -> bool:
    """A target gain that stands after Holm's correction."""
    figures = arm["target_result"]
    adjusted = figures.get("p_adjusted")
    return adjusted is not None and adjusted < alpha and figures["delta"] > 0


def harms(arm: Arm, alpha: float) -> bool:
    """A target loss that stands after Holm's correction."""
    figures = arm["target_result"]
    adjusted = figures.get("p_adjusted")
    return adjusted is not None and adjusted < alpha and figures["delta"] < 0


def holds(arm: Arm) -> bool:
    """Pooled non-targets are non-inferior at the plan's margin."""
    return bool(arm["non_target_result"]["non_inferiority"]["holds"])


def leaderboard(result: dict[str, Any]) -> Grid:
    """One row a variant: target changes, then what happened to the non-targets."""
    targets, alpha = targets_of(result), result["alpha"]
    base = {row["task"]: row for row in result["base"]}
    scores = {row["domain"]: row["score"] for row in base.values() if row["role"] == "target"}
    others = [row for row in base.values() if row["role"] == "non-target"]
    pooled = sum(row["score"] * row["n"] for row in others) / sum(row["n"] for row in others)
    header = ("variant", *targets, "targets improved", "non-targets, worst", "held")
    first = ("base (score)", *(f"{scores[t]:.1%}" for t in targets), "", f"{pooled:.1%}", "")
    rows = [first]
    for variant in variants_of(result):
        arms = arms_of(result, variant)
        cells = [f"{_pp(arm['target_result']['delta'])}{_mark(arm, alpha)}" for arm in arms]
        worst = min(arm["non_target_result"]["delta"] for arm in arms)
        improved = sum(improves(arm, alpha) for arm in arms)
        held = sum(holds(arm) for arm in arms)
        counts = (f"{improved} of {len(arms)}", _pp(worst), f"{held} of {len(arms)}")
        rows.append((variant, *cells, *counts))
    return Grid(header, tuple(rows))


def details(result: dict[str, Any]) -> Grid:
    """One row an arm, with every figure."""
    header = (
        "variant", "target", "n", "base", "variant's", "change", "95 % interval", "p",
        "gained", "lost", "smallest effect", "p (Holm)", "non-target n", "non-target change",
        "one-sided bound", "held", "test",
    )  # fmt: skip
    return Grid(header, tuple(_detail_row(arm) for arm in result["arms"]))


def _detail_row(arm: Arm) -> tuple[str, ...]:
    own, other = arm["target_result"], arm["non_target_result"]
    held = other["non_inferiority"]
    return (
        arm["variant"],
        arm["target"],
        *_paired_cells(own),
        _p(own.get("p_adjusted")),
        str(other["n"]),
        _pp(other["delta"]),
        _pp(held["lower_bound"]),
        "yes" if held["holds"] else "no",
        own["test"] if own["test"] == other["test"] else f"{own['test']}; {other['test']}",
    )


def _paired_cells(figures: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a paired comparison, in the order of `details`."""
    low, high = figures["ci95"]
    return (
        str(figures["n"]),
        f"{figures['score_a']:.1%}",
        f"{figures['score_b']:.1%}",
        _pp(figures["delta"]),
        f"{_number(low)} to {_number(high)}",
        _p(figures["p_value"]),
        str(figures["gained"]),
        str(figures["lost"]),
        "none" if figures["mde80"] is None else _pp(figures["mde80"]).lstrip("+"),
    )


def settings(result: dict[str, Any]) -> Grid:
    """What tuning chose for each steered arm."""
    header = (
        "variant", "target", "experts", "share of activations", "strength", "alpha", "qualified",
        "profile",
    )  # fmt: skip
    rows = tuple(
        (
            arm["variant"],
            arm["target"],
            str(arm["settings"]["experts"]),
            f"{arm['settings']['activation_share']:.1%}",
            f"{arm['settings']['strength']:.3g}",
            f"{1 + arm['settings']['strength']:.3g}",
            "yes" if arm["settings"]["qualified_on_tuning"] else "no: the weakest setting was used",
            arm["profile"],
        )
        for arm in result["arms"]
        if arm["profile"]
    )
    return Grid(header, rows)


def generalization(result: dict[str, Any]) -> Grid:
    """One row an arm that claims something: what it may claim, gained and cost."""
    header = (
        "variant", "target", "on it", "on non-targets", "beyond placebo", "beyond wrong domain",
        "worst domain", "domains all hold", "domains that fell", "retention", "flipped", "tokens",
    )  # fmt: skip
    rows = (_generalization_row(arm) for arm in result["arms"] if "claim" in arm["target_result"])
    return Grid(header, tuple(rows))


def _generalization_row(arm: Arm) -> tuple[str, ...]:
    found = arm["generalization"]
    change, flipped = found["non_target_change"], found["flipped"]
    return (
        arm["variant"],
        arm["target"],
        *(arm[name]["claim"]["verdict"] for name in ("target_result", "non_target_result")),
        *(_over_control(found[name]) for name in ("over_placebo", "specificity")),
        f"{_pp(change['worst'])} ({change['worst_domain']})",
        "yes" if found["all_hold"]["holds"] else "not shown",
        ", ".join(found["regressions"]) or "none",
        "-" if found["retention"] is None else f"{found['retention']:.1%}",
        f"{flipped['target']:.1%}, {flipped['non_target']:.1%}",
        "-" if found["tokens_ratio"] is None else f"{found['tokens_ratio']:.2f}",
    )


def _over_control(figures: Arm | None) -> str:
    if figures is None:
        return "no control"
    return f"{_pp(figures['delta'])}, {figures['claim']['verdict']}"


def by_domain(result: dict[str, Any]) -> Grid:
    """Change of each non-target domain, for each arm."""
    domains = list(dict.fromkeys(d["domain"] for arm in result["arms"] for d in arm["domains"]))
    rows = []
    for arm in result["arms"]:
        change = {row["domain"]: row["delta"] for row in arm["domains"]}
        cells = (_pp(change[d]) if d in change else "target" for d in domains)
        rows.append((arm["variant"], arm["target"], *cells))
    return Grid(("variant", "target", *domains), tuple(rows))


def domain_details(result: dict[str, Any]) -> Grid:
    """One row an arm and non-target domain, with every figure; p-values are not adjusted."""
    header = (
        "variant", "target", "domain", "n", "base", "variant's", "change", "95 % interval", "p",
        "gained", "lost", "smallest effect", "test",
    )  # fmt: skip
    rows = [
        (arm["variant"], arm["target"], row["domain"], *_paired_cells(row), row["test"])
        for arm in result["arms"]
        for row in arm["domains"]
    ]
    return Grid(header, tuple(rows))


def answers(result: dict[str, Any]) -> Grid:
    """What generated answers took and how many were none, base's and then the variant's."""
    header = (
        "variant", "target", "of", "n", "tokens", "truncated", "invalid", "change",
        "both in full", "change of these",
    )  # fmt: skip
    rows = []
    for arm in result["arms"]:
        parts = {"target": arm["target_result"], "non-targets": arm["non_target_result"]}
        for name, figures in parts.items():
            if figures["answers"] is not None:
                rows.append((arm["variant"], arm["target"], name, *_answer_cells(figures)))
    return Grid(header, tuple(rows))


def _answer_cells(figures: dict[str, Any]) -> tuple[str, ...]:
    told = figures["answers"]
    base, own, whole = told["a"], told["b"], told["both_whole"]
    return (
        str(told["n"]),
        f"{base['mean_tokens']:.1f} to {own['mean_tokens']:.1f}",
        *(f"{base[name]:.1%} to {own[name]:.1%}" for name in ("truncated", "invalid")),
        _pp(figures["delta"]) if told["n"] == figures["n"] else "",
        str(whole["n"]),
        "" if whole["delta"] is None else _pp(whole["delta"]),
    )


def format_gains(result: dict[str, Any]) -> list[str]:
    """Target gains of which less than half is there where both answered in full."""
    found = []
    for arm in result["arms"]:
        figures = arm["target_result"]
        if figures["answers"] is None or not improves(arm, result["alpha"]):
            continue
        whole = figures["answers"]["both_whole"]
        if whole["delta"] is None or whole["delta"] < figures["delta"] / 2:
            rest = "there is none that"
            if whole["delta"] is not None:
                rest = f"{_pp(whole['delta'])} over the {whole['n']} that"
            found.append(
                f"{arm['variant']} on {arm['target']}: a gain of format or length. It is "
                f"{_pp(figures['delta'])} over all {figures['n']} items, and {rest} base and "
                "variant both answered with a valid answer within the limit."
            )
    return found


def glossary(result: dict[str, Any]) -> Grid:
    """What the compared variants are."""
    names = [BASE, *variants_of(result)]
    return Grid(("variant", "is"), tuple((name, get_variant(name).summary) for name in names))


def findings(result: dict[str, Any]) -> list[str]:
    """A sentence a variant, in the order of the plan, whatever came out."""
    found = [_finding(variant, arms_of(result, variant), result) for variant in variants_of(result)]
    return unread_answers(result) + found + format_gains(result)


def unread_answers(result: dict[str, Any]) -> list[str]:
    """Tasks on which most of base's answers could not be read: nothing can be gained or lost."""
    shares = {
        row["domain"]: max(row["answers"]["invalid"], row["answers"]["truncated"])
        for row in result["base"]
        if row["answers"] is not None
    }
    unread = [f"{domain} ({share:.0%})" for domain, share in shares.items() if share > _UNREAD]
    if not unread:
        return []
    return [
        f"Most of base's answers were cut off by their limit, or hold none that the task's rule "
        f"finds: {', '.join(unread)}. Scores there tell of format and length, not of knowledge."
    ]


def caveats(result: dict[str, Any]) -> list[str]:
    """What the figures do not show."""
    found = [
        "One model, one training seed, one draw of random experts and one seed of fine-tuning: the "
        "intervals hold for items, not for new models or new draws.",
        "Non-inferior at the margin is not “no loss”: read the one-sided bound for what could "
        "still be lost.",
        "A change that is not significant is not shown to be zero: read the smallest effect that "
        "could have been seen.",
        "Settings were chosen on a tuning split of the same source; how they carry over to other "
        "text was not asked.",
        "An arm whose settings are its grid's strongest or largest may have gained more beyond it.",
    ]
    for arm in result["arms"]:
        missing = (arm["settings"] or {}).get("sizes_unavailable")
        if missing and arm["control_of"] is None:
            sizes = " or ".join(map(str, missing))
            found.append(
                f"{arm['variant']} on {arm['target']}: its method does not name {sizes} experts "
                "with a positive score, or they are all experts; those sizes were not tried."
            )
    if result["run"]["model"] in EMBEDDED_MODELS:
        found.insert(
            0,
            f"{result['run']['model']} is a test bed with a known kind of effect. Nothing here is "
            "evidence about real language models.",
        )
    return found


def overlap_warning(result: dict[str, Any]) -> str:
    """What stands above everything else where splits overlap; empty where they do not."""
    leakage = result["leakage"]
    if not leakage["pairs"]:
        return ""
    meaning = (
        "Experts or settings were chosen on what they are tested on: nothing here is evidence of "
        "generalisation to new questions."
        if any(item["split"] == "test" for item in leakage["items"])
        else "No test item is among them, but settings were chosen on text by which experts were "
        "identified: they need not be those that generalise."
    )
    return (
        f"The splits overlap, as this plan asks ({leakage['allowed_by']}, the paper's own set-up): "
        f"{'; '.join(leakage_counts(leakage))}. {meaning}"
    )


def leakage_check(result: dict[str, Any]) -> str:
    """What was compared for leakage, and what came out."""
    leakage = result["leakage"]
    checked = ", ".join(f"{row['items']:,} {row['split']}" for row in leakage["checked"])
    found = "; ".join(leakage_counts(leakage)) or "no item repeats one of another split"
    return f"Of {checked} items: {found}."


def leakage_rules(result: dict[str, Any]) -> list[str]:
    """When two items are the same, and how many are by each rule."""
    leakage = result["leakage"]
    counts = Counter(item["rule"] for item in leakage["items"])
    return [f"{row['rule']} ({counts[row['rule']]:,}): {row['same']}" for row in leakage["rules"]]


def _finding(variant: str, arms: list[Arm], result: dict[str, Any]) -> str:
    alpha, margin = result["alpha"], result["margin"]
    if all(arm["target_result"].get("p_adjusted") is None for arm in arms):
        equal = sum(arm["equal_to_base"] for arm in arms)
        verdict = "as it must" if equal == len(arms) else "WHICH IT MUST; nothing here holds"
        return f"{variant} equals base on every item in {equal} of {len(arms)} arms, {verdict}."
    improved = [arm["target"] for arm in arms if improves(arm, alpha)]
    harmed = [arm["target"] for arm in arms if harms(arm, alpha)]
    held = sum(holds(arm) for arm in arms)
    low = min(arm["non_target_result"]["delta"] for arm in arms)
    high = max(arm["non_target_result"]["delta"] for arm in arms)
    return (
        f"{variant} improves {_named(improved, len(arms))}"
        + (f" and harms {_named(harmed, len(arms))}" if harmed else "")
        + f"; non-targets change by {_number(low)} to {_number(high)} pp and are non-inferior at "
        f"{100 * margin:g} pp for {held} of {len(arms)} targets."
    )


def _named(targets: list[str], total: int) -> str:
    return f"{len(targets)} of {total} targets" + (f" ({', '.join(targets)})" if targets else "")


def _mark(arm: Arm, alpha: float) -> str:
    return " ▲" if improves(arm, alpha) else " ▼" if harms(arm, alpha) else ""


def _number(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"


def _pp(fraction: float) -> str:
    return f"{_number(fraction)} pp"


def _p(value: float | None) -> str:
    if value is None:
        return "no claim"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"

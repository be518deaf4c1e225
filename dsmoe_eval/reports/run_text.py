"""The sentences of a run's report, each of which follows from `comparisons.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..lab import CAVEATS
from ..results import RunFolder
from ..results.arms import Arm, Settings
from ..results.cells import Sharing, read_cell
from ..results.paired import Paired
from ..results.schema import RunResult
from ..tasks.leakage import leakage_counts
from ..variants import BASE, get_variant
from . import formats
from .run_arms import arms_of, harms, improves, is_non_inferior, lacks_items, variants_of
from .run_base import floor_findings
from .run_controls import control_sentences, unmatched
from .run_outcomes import outcome_findings

_UNREAD = 0.5
"""The share of a task's answers above which the report warns that they could not be read."""


def findings(result: RunResult) -> list[str]:
    """Return defects of the run, then one sentence per variant in the order of the plan."""
    found = [_finding(variant, arms_of(result, variant), result) for variant in variants_of(result)]
    head = unread_answers(result) + floor_findings(result)
    found += control_sentences(result) + format_gains(result)
    others = outcome_findings(result)
    first = others.pop(result.outcome, [])
    if first:
        found = [f"By score (secondary): {sentence}" for sentence in found]
    return head + first + found + [one for rest in others.values() for one in rest]


def _finding(variant: str, arms: Sequence[Arm], result: RunResult) -> str:
    level, margin = result.significance_level, result.margin
    if all(arm.target_result.p_adjusted is None for arm in arms):
        equal = sum(result.equals_model(arm) for arm in arms)
        verdict = "as it must" if equal == len(arms) else "WHICH IT MUST; nothing here holds"
        form = get_variant(variant).quantized
        model = f"the {form} model" if form else "base"
        return f"{variant} equals {model} on every item in {equal} of {len(arms)} arms, {verdict}."
    improved = [arm.target for arm in arms if improves(arm, level)]
    harmed = [arm.target for arm in arms if harms(arm, level)]
    held = sum(is_non_inferior(arm) for arm in arms)
    low = min(arm.non_target_result.delta for arm in arms)
    high = max(arm.non_target_result.delta for arm in arms)
    return (
        f"{variant} improves {formats.named(improved, len(arms), 'targets')}"
        + (f" and harms {formats.named(harmed, len(arms), 'targets')}" if harmed else "")
        + f"; non-targets change by {formats.points_interval(low, high)} pp and are "
        f"non-inferior at {formats.margin(margin)} pp for {held} of {len(arms)} targets."
        + "".join(_limits(arms, level, margin))
    )


def _limits(arms: Sequence[Arm], level: float, margin: float) -> Iterator[str]:
    """Yield what a variant's items could not show, and where no setting was good enough."""
    unshown = [arm for arm in arms if not (improves(arm, level) or harms(arm, level))]
    if unshown:
        figures = [arm.target_result for arm in unshown]
        yield f" No change is shown on {_list(unshown)}: {_smallest(figures)}."
    few = [arm for arm in arms if lacks_items(arm)]
    if few:
        bounds = [-arm.non_targets.non_inferiority.lower_bound for arm in few]
        items = [arm.non_target_result.n for arm in few]
        yield (
            f" For {_list(few)} it equals base on every non-target, but "
            f"{formats.span(items)} items without any change can show non-inferiority only at "
            f"{formats.span(bounds, formats.size)} pp or more, and the margin is "
            f"{formats.margin(margin)} pp."
        )
    weakest = [arm for arm in arms if _is_weakest(arm)]
    if weakest:
        yield f" On {_list(weakest)} no setting qualified, the weakest was used."


def _is_weakest(arm: Arm) -> bool:
    settings = arm.settings
    return (
        arm.control_of is None
        and isinstance(settings, Settings)
        and not settings.qualified_on_tuning
    )


def _smallest(figures: Sequence[Paired]) -> str:
    known = [one.mde80 for one in figures if one.mde80 is not None]
    items = f"{formats.span([one.n for one in figures])} items"
    if not known:
        return f"{items} can show no change, however large"
    words = f"{items} can show {formats.span(known, formats.size)} points or more with 80 % power"
    if len(known) < len(figures):
        words += f", and on {len(figures) - len(known)} of the targets no change, however large"
    return words


def _list(arms: Sequence[Arm]) -> str:
    return ", ".join(arm.target for arm in arms)


def unread_answers(result: RunResult) -> list[str]:
    """Return the tasks on which most of base's answers could not be read."""
    shares = {
        row.domain: max(row.answers.invalid, row.answers.truncated)
        for row in result.base
        if row.answers is not None
    }
    unread = [f"{domain} ({share:.0%})" for domain, share in shares.items() if share > _UNREAD]
    if not unread:
        return []
    return [
        f"Most of base's answers were cut off by their limit, or hold none that the task's rule "
        f"finds: {', '.join(unread)}. Scores there tell of format and length, not of knowledge."
    ]


def format_gains(result: RunResult) -> list[str]:
    """Return the target gains that shrink to less than half on items that both answered in full."""
    found = []
    for arm in result.arms:
        figures = arm.target_result
        if figures.answers is None or not improves(arm, result.significance_level):
            continue
        whole = figures.answers.both_whole
        if whole.delta is None or whole.delta < figures.delta / 2:
            rest = "there is none that"
            if whole.delta is not None:
                rest = f"{formats.pp(whole.delta)} over the {whole.n} that"
            found.append(
                f"{arm.variant} on {arm.target}: a gain of format or length. It is "
                f"{formats.pp(figures.delta)} over all {figures.n} items, and {rest} base and "
                "variant both answered with a valid answer within the limit."
            )
    return found


def caveats(result: RunResult) -> list[str]:
    """Return the limits of the figures."""
    found = [
        "One model, one training seed and one seed of fine-tuning: the intervals hold for items "
        "(those over a placebo of several draws for draws too), not for new models.",
        "Non-inferior at the margin is not “no loss”: read the one-sided bound for what could "
        "still be lost.",
        "A change that is not significant is not shown to be zero: read the smallest effect that "
        "could have been seen.",
        "Settings were chosen on a tuning split of the same source; how they carry over to other "
        "text was not asked.",
        "An arm whose settings are its grid's strongest or largest may have gained more beyond it.",
    ]
    found += unmatched(result) + numerical_noise(result) + engine_routing(result)
    found += [words for arm in result.arms for words in _untried(arm)]
    if result.run.model in CAVEATS:
        found.insert(0, CAVEATS[result.run.model])
    return found


def numerical_noise(result: RunResult) -> list[str]:
    """Return what other batches change in base; sham, in the same batches, cannot show it."""
    rows = [row.noise for row in result.base if row.noise is not None]
    if not rows:
        return []
    items, flipped = sum(row.items for row in rows), sum(row.flipped for row in rows)
    smallest, largest = (pick(row.median_difference for row in rows) for pick in (min, max))
    return [
        f"Numerical noise of {result.run.dtype}: {items} items were scored again by base, one at a "
        f"time instead of in batches; {flipped} ({flipped / items:.1%}) changed their answer. "
        f"Log-likelihoods changed by {smallest:.1g} to {largest:.1g} nats (medians of tasks)."
    ]


def engine_routing(result: RunResult) -> list[str]:
    """Return how often the engine that answered selects other experts than the learner."""
    if (routing := result.routing) is None:
        return []
    pairs = routing.tokens * len(routing.layers)
    return [
        f"Experts were identified in {routing.learner}, and {result.run.engine} answered. Of "
        f"{pairs:,} selections ({routing.tokens:,} tokens of identification text, "
        f"{len(routing.layers)} layers) {routing.different:.2%} have other experts in "
        f"{result.run.engine} than in {routing.learner}."
    ]


def sharing_notes(folder: RunFolder, result: RunResult) -> list[str]:
    """Return a sentence per comparison after which texts were no longer shared, cell by cell."""
    ids = [row.cell for row in result.base]
    ids += [cell for arm in result.arms for cell in arm.cells.values()]
    cells = [read_cell(folder, cell) for cell in dict.fromkeys(ids)]
    checks = [check for cell in cells for check in cell.get("sharing", [])]
    return list(dict.fromkeys(_unshared(check) for check in checks if not check["agrees"]))


def _unshared(check: Sharing) -> str:
    difference, tolerance = check["difference"], check["tolerance"]
    how = "could not be computed so"
    if difference is not None and tolerance is not None:
        how = f"differed by {difference:.3g} (tolerance {tolerance:.3g}) from those of whole texts"
    return (
        f"Beginnings that texts share were computed once until {', '.join(check['tasks'])}, where "
        f"{check['what']} {how}; from there on each text was computed whole."
    )


def _untried(arm: Arm) -> Iterator[str]:
    settings = arm.settings
    if isinstance(settings, Settings) and settings.sizes_unavailable and arm.control_of is None:
        sizes = " or ".join(map(str, settings.sizes_unavailable))
        yield (
            f"{arm.variant} on {arm.target}: its method does not name {sizes} experts "
            "with a positive score, or they are all experts; those sizes were not tried."
        )


def glossary(result: RunResult) -> tuple[tuple[str, str], ...]:
    """Return base and each compared variant, with their descriptions."""
    names = [BASE, *result.variants]
    return tuple((name, get_variant(name).summary) for name in names)


def overlap_warning(result: RunResult) -> str:
    """Return the warning at the head of a report whose splits overlap; empty if they do not."""
    leakage = result.leakage
    if not leakage.pairs:
        return ""
    meaning = (
        "Experts or settings were chosen on what they are tested on: nothing here is evidence of "
        "generalisation to new questions."
        if any(item.split == "test" for item in leakage.items)
        else "No test item is among them, but settings were chosen on text by which experts were "
        "identified: they need not be those that generalise."
    )
    return (
        f"The splits overlap, as this plan asks ({leakage.allowed_by}, the paper's own set-up): "
        f"{'; '.join(_overlaps(result))}. {meaning}"
    )


def _overlaps(result: RunResult) -> list[str]:
    checked = {row.split: row.items for row in result.leakage.checked}
    return leakage_counts(checked, result.leakage.items)


def leakage_check(result: RunResult) -> str:
    """Return the splits that were compared for leakage, and the outcome."""
    leakage = result.leakage
    checked = ", ".join(f"{row.items:,} {row.split}" for row in leakage.checked)
    found = "; ".join(_overlaps(result)) or "no item repeats one of another split"
    return f"Of {checked} items: {found}."


def leakage_rules(result: RunResult) -> list[str]:
    """Return each rule by which two items are the same, with the number of such pairs."""
    leakage = result.leakage
    counts = Counter(item.rule for item in leakage.items)
    return [f"{row.rule} ({counts[row.rule]:,}): {row.same}" for row in leakage.rules]

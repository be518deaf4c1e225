"""What each arm gains over its controls, and on which terms: what it learned from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..results.arms import Arm, Settings
from ..results.folder import RunFolder
from ..results.paired import Paired
from ..results.schema import RunResult
from ..results.terms import Matching
from ..variants import controls_for, get_variant
from . import formats
from .run_arms import (
    arm_source,
    arms_of,
    shown_arms,
    sign_of_change,
    table_of_arms,
    targets_of,
    variants_of,
)
from .table import Facets, Figure, Table, Value, make_table, words

_NONE = "no control"


def placebo_gains(result: RunResult) -> Table:
    """Return each arm's gain over its placebo, one row per variant and a column per target."""
    level = result.significance_level
    caption = (
        "Target score less the mean of the arm's placebo draws, percentage points: random experts "
        "of the same layers and exposure, or random vectors of the same norm, with the arm's "
        "settings; of a learned profile the one learned on shuffled answers; of sft-lora-cka the "
        "one that compares outputs of different tokens. The interval is for "
        f"new items and new draws. ▲ ▼: Holm-adjusted p < {level}."
    )
    rows = [arms for arms in (arms_of(result, v) for v in variants_of(result)) if _placebo(arms)]
    figures = (
        words("variant", lambda arms: arms[0].variant),
        *(_over_placebo(place, name, level) for place, name in enumerate(targets_of(result))),
        words("draws", partial(_draws, result=result)),
    )
    return make_table("over-placebo", caption, figures, rows, _facets)


def _placebo(arms: Sequence[Arm]) -> bool:
    return any(arm.over_placebo is not None for arm in arms)


def _facets(arms: Sequence[Arm]) -> Facets:
    return {"variant": (arms[0].variant,)}


def _over_placebo(place: int, name: str, level: float) -> Figure[Sequence[Arm]]:
    def value(arms: Sequence[Arm]) -> Value:
        over = arms[place].over_placebo
        return _NONE if over is None else (over.delta, _sign(over, level))

    return Figure(
        name, value, formats.pp, lambda arms: arm_source(arms[place], "over_placebo.delta")
    )


def _sign(over: Paired, level: float) -> str:
    return sign_of_change(over.p_adjusted, over.delta, level)


def _draws(arms: Sequence[Arm], result: RunResult) -> str:
    return str(len(placebos(arms[0].variant, result)))


def placebos(variant: str, result: RunResult) -> list[str]:
    """Return the names of a variant's placebos in a run, draw by draw."""
    among = map(get_variant, result.variants)
    return [one.name for one in controls_for(get_variant(variant), "random_matched", among)]


def terms(result: RunResult) -> Table:
    """Return what each arm learned from, and the tokens of its prompts."""
    caption = (
        "What each arm saw before the test: documents without answers by which experts were "
        "identified, answered questions by which experts or settings were chosen or weights "
        "trained, parameters that were trained, settings that were tried. Arms that saw different "
        "information are not on equal terms. Tokens of a prompt: mean on the target, base's and "
        "the arm's."
    )
    return table_of_arms("terms", caption, _TERMS, result, shown_arms(result))


def _learned(name: str) -> Figure[Arm]:
    return Figure(
        _TITLES[name],
        lambda arm: getattr(arm.information, name),
        "{:,}".format,
        lambda arm: arm_source(arm, f"information.{name}"),
    )


_TITLES = {
    "texts": "texts without answers",
    "answers": "answered questions",
    "settings": "settings tried",
    "parameters": "trained parameters",
}
_TERMS: tuple[Figure[Arm], ...] = (
    words("variant", lambda arm: arm.variant),
    words("target", lambda arm: arm.target),
    words("domain named", lambda arm: "yes" if arm.information.domain_named else "no"),
    *map(_learned, _TITLES),
    Figure("tokens of a prompt", lambda arm: arm.prompt_tokens, formats.decimals,
        lambda arm: arm_source(arm, "prompt_tokens")),
)  # fmt: skip


def unmatched(result: RunResult) -> list[str]:
    """Return a sentence per placebo whose random experts are not matched within 10 %."""
    return [
        f"{arm.variant} on {arm.target}: {_mismatch(arm.settings.matching)}"
        for arm in result.arms
        if isinstance(arm.settings, Settings)
        and arm.settings.matching is not None
        and arm.settings.matching.outside
    ]


def repeated(folder: RunFolder, result: RunResult) -> list[str]:
    """Return a sentence per draw of a placebo with the experts of an earlier draw.

    Where few experts have a like exposure, draws coincide by chance.
    """
    said: list[str] = []
    seen: dict[tuple[str, str, frozenset[tuple[int, int]]], Arm] = {}
    for variant in variants_of(result):
        draws = placebos(variant, result)
        for arm in (one for one in result.arms if len(draws) > 1 and one.variant in draws):
            experts = _experts(folder, arm)
            first = seen.setdefault((variant, arm.target, experts), arm) if experts else arm
            if first is not arm:
                said.append(
                    f"{arm.variant} on {arm.target} has the same random experts as "
                    f"{first.variant}: the spread of the placebo is known from fewer draws."
                )
    return said


def _experts(folder: RunFolder, arm: Arm) -> frozenset[tuple[int, int]]:
    """Return layer and number of an arm's experts; none of a vector."""
    if arm.profile is None:
        return frozenset()
    profile = folder.read_json(folder.profile(arm.variant, arm.target, arm.profile))
    return frozenset((one["layer"], one["expert"]) for one in profile["experts"])


def _mismatch(matching: Matching) -> str:
    largest = "without bound" if matching.largest is None else f"{matching.largest:+.0%}"
    total = "" if matching.total is None else f"; in sum they have {matching.total:+.0%}"
    return (
        f"{matching.outside} of {matching.experts} random experts differ by more than 10 % in "
        f"exposure from the experts that they replace, the most by {largest}{total}."
    )


def control_sentences(result: RunResult) -> list[str]:
    """Return sentences on the variants' gains over placebo and beside naming the domain."""
    found = []
    for variant in variants_of(result):
        arms = arms_of(result, variant)
        over = [(arm.target, arm.over_placebo) for arm in arms if arm.over_placebo is not None]
        level = result.significance_level
        if over:
            draws = len(placebos(variant, result))
            drawn = "vectors" if get_variant(variant).kind == "residual" else "experts"
            rest = f"the mean of {draws} draws of random {drawn}" if draws > 1 else "its placebo"
            found.append(f"Against {rest}, {variant} is {_outcome(over, level)}.")
        if plain := [(arm.target, arm.over_lora) for arm in arms if arm.over_lora is not None]:
            how = _outcome(plain, level)
            other = (
                "without its loss" if get_variant(variant).adds_loss else "of the model as it is"
            )
            found.append(f"Against the same training {other}, {variant} is {how}.")
    return [*found, *_beside_the_prompt(result), *_terms_in_words(result)]


def _beside_the_prompt(result: RunResult) -> list[str]:
    """Return a sentence for the variants with the same outcome against naming the domain."""
    groups: dict[str, list[str]] = {}
    for variant in variants_of(result):
        arms = arms_of(result, variant)
        rows = [(arm.target, arm.over_prompt) for arm in arms if arm.over_prompt is not None]
        if rows:
            signs, change = _signs(rows, result.significance_level), _range(rows)
            groups.setdefault(signs, []).append(f"{variant} ({change})")
    return [
        f"Against naming the domain in the prompt, {', '.join(variants)}: {signs}. They are not "
        "on equal terms, see below."
        for signs, variants in groups.items()
    ]


def _outcome(rows: Sequence[tuple[str, Paired]], level: float) -> str:
    return f"{_signs(rows, level)}; {_range(rows)}"


def _range(rows: Sequence[tuple[str, Paired]]) -> str:
    changes = [row.delta for _, row in rows]
    return f"{formats.points_interval(min(changes), max(changes))} pp"


def _signs(rows: Sequence[tuple[str, Paired]], level: float) -> str:
    """Return on how many targets a comparison is a gain, and on how many a loss."""
    gains = [target for target, row in rows if _sign(row, level) == "▲"]
    losses = [target for target, row in rows if _sign(row, level) == "▼"]
    words = [f"better on {len(gains)} of {len(rows)} targets" + _listed(gains)]
    if losses:
        words.append(f"worse on {len(losses)}" + _listed(losses))
    return ", ".join(words)


def _listed(targets: Sequence[str]) -> str:
    return f" ({', '.join(targets)})" if targets else ""


def _terms_in_words(result: RunResult) -> list[str]:
    """Return a sentence on what the variants learned from, where that is not the same for all."""
    groups: dict[str, list[str]] = {}
    for variant in variants_of(result):
        arms = arms_of(result, variant)
        if any(arm.control_of is None for arm in arms):
            groups.setdefault(arms[0].information.words, []).append(variant)
    if len(groups) < 2:
        return []
    parts = [f"{', '.join(names)}: {learned}" for learned, names in groups.items()]
    return [f"The arms are not on equal terms, each used for a target: {'; '.join(parts)}."]

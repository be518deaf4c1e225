"""The pictures of a run's report, drawn from its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from ..results import RunFolder
from ..results.arms import Settings
from ..results.schema import RunResult
from ..results.stability import StabilityResult
from ..runs.tuning import Tuned
from ..stats import Unit
from . import base_figures, figures
from .figures import Shifts
from .page import PP, Picture, embed
from .run_arms import shown_arms
from .run_foretold import foretold_effects, foretold_figure
from .run_outcomes import OutcomeSection
from .run_sites import SteeredUnits, column_label, column_words
from .run_stability import spreads
from .unit_words import in_words_of


class IdentificationScores(SteeredUnits):
    """The part of `identification.json` that pictures need: scores by method, domain, layer."""

    layers: list[int]
    scores: dict[str, dict[str, list[list[float]]]]


class RoutingShares(TypedDict):
    """The experts' shares of the target's tuning tokens: [layers, experts]."""

    base: list[list[float]]
    steered: list[list[float]]


FIGURES = (
    (
        "forest.png",
        "What each variant changed, with 95 % intervals",
        "Left: the target's questions; right: all non-target questions of the same arm, pooled. A "
        "filled dot on the left is a gain that stands after Holm's correction. Look for rows that "
        "are right of zero on the left and right of the red line (the margin) on the right.",
    ),
    (
        "base.png",
        "Base's scores, and what needs no model",
        "Base's score on each task with its 95 % interval. Broken red line: chance, the expected "
        "score of random options. Dotted line: the best score of one answer to all items. Where an "
        "interval reaches the red line, base's right answers may be luck.",
    ),
    (
        "tradeoff.png",
        "Gain against loss as strength grows (tuning split)",
        "Each line is one number of experts; strength grows along it. Steering that helps climbs "
        "before it drifts left; left of the red line it costs more than the margin. The star is "
        "the setting that the plan's rule chose and the test split was asked with.",
    ),
    (
        "experts.png",
        "Experts' scores by layer and domain",
        "Every column is {one}. A domain that has experts of its own shows red cells that no "
        "other row shares; a method that finds the same columns for every domain has found busy "
        "experts, not domain experts. Whether these experts are specific to the domain beyond "
        "chance is another question: `dsmoe-eval existence MODEL` with the same text answers it.",
    ),
    (
        "routing.png",
        "Where the routing went",
        "Change of {share} of the target's tuning questions, steered minus base. "
        "Reweighting cannot change the selection in the layer where it acts, only in later ones.",
    ),
    (
        "foretold.png",
        "Foretold and measured",
        "Each mark is one outcome of a task under an arm: what was foretold from the "
        "identification split before the test, against what was measured. Broken line: the two "
        "are equal. A cross is an effect outside its prediction interval: its horizontal bar does "
        "not reach this line.",
    ),
    (
        "stability.png",
        "Would other text, or another prompt, have shown the same gain?",
        "Line and large dot: the gain over base and its 95 % interval over items. Small dots: the "
        "gain with the experts that each resample of the documents chooses. Crosses: the gain "
        "under each wording of the prompt. Grey: what the wordings move base; a gain inside it is "
        "smaller than the noise of the prompt.",
    ),
)
"""The file, title and caption of each picture; braces are for `column_words`."""


def draw(
    folder: RunFolder, result: RunResult, stability: StabilityResult | None, to: Path
) -> list[str]:
    """Draw those of `FIGURES` that the run has data for, and return their files' names."""
    figures.style()
    figures.forest(result, to / "forest.png")
    base_figures.base_panel(result.base, to / "base.png")
    identification: IdentificationScores = folder.read_json(folder.identification)
    scores, layers = identification["scores"], identification["layers"]
    shown = ["forest.png", "base.png"]
    if scores:  # not where no arm scores experts
        experts = len(next(iter(next(iter(scores.values())).values()))[0])
        label = column_label(identification, experts)
        figures.expert_map(scores, layers, to / "experts.png", columns=label)
        shown.append("experts.png")
    trials = pd.DataFrame(_trials(folder, result))
    if not trials.empty:
        chosen_by = _chosen_by(result, to / "tradeoff.png")
        figures.tradeoff(trials, *chosen_by, units=identification.get("units"))
        shown.append("tradeoff.png")
    shifts = _shifts(folder, result)
    if shifts:
        label = in_words_of(identification.get("units"), column_words(identification)["label"])
        figures.routing_shift(shifts, layers, to / "routing.png", columns=label)
        shown.append("routing.png")
    if effects := foretold_effects(result):
        foretold_figure(effects, to / "foretold.png")
        shown.append("foretold.png")
    if stability is not None:
        base_figures.spread(spreads(result, stability), to / "stability.png")
        shown.append("stability.png")
    return shown


def _chosen_by(result: RunResult, path: Path) -> tuple[float, Path, Unit]:
    """Return the margin, the picture and the unit of the outcome by which settings were chosen."""
    primary = result.arms[0].outcome(result.outcome)
    if primary is None:
        return result.margin, path, PP
    return primary.margin, path, Unit(primary.about.unit)


def draw_outcomes(sections: list[OutcomeSection], to: Path) -> list[OutcomeSection]:
    """Draw the plots of each outcome, and return the sections."""
    for section in sections:
        for forest in section.forests:
            figures.leaderboard_plot(forest, to / f"{forest.id}.png")
    return sections


def pictures(folder: RunFolder, to: Path, shown: list[str]) -> list[Picture]:
    """Return the pictures that are not drawn in the page itself."""
    alts = {"experts.png": experts_in_words(folder.read_json(folder.identification))}
    return [
        Picture(embed(to / file), alts.get(file, title), title, caption)
        for file, title, caption in captioned(folder, shown)
        if file != "forest.png"
    ]


def captioned(folder: RunFolder, shown: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return file, title and caption of the pictures that are shown, in the order of `FIGURES`."""
    words = column_words(folder.read_json(folder.identification))
    return [
        (file, title, caption.format_map(words))
        for file, title, caption in FIGURES
        if file in shown
    ]


def experts_in_words(identification: IdentificationScores) -> str:
    """Describe the map of experts in words: its content, and the highest score of each row."""
    layers, found = identification["layers"], []
    for method, by_domain in identification["scores"].items():
        best = []
        for domain, scores in by_domain.items():
            table = np.asarray(scores)
            row, expert = np.unravel_index(int(table.argmax()), table.shape)
            unit = "column" if "units" in identification else "expert"
            best.append(f"{domain} layer {layers[row]} {unit} {expert} ({table.max():.3g})")
        found.append(f"method {method}: {', '.join(best)}")
    several = identification.get("column", 1) > 1
    one = f"{column_words(identification)['one']}," if several else "an expert"
    return (
        f"Heat maps, one a method: a row a domain, a column {one} of a layer, red above zero, "
        f"blue below. The highest score of each row, by {'; by '.join(found)}."
    )


def _trials(folder: RunFolder, result: RunResult) -> Iterator[dict[str, object]]:
    """Yield one row per setting that tuning tried."""
    for arm in result.arms:
        path = folder.tuning(arm.variant, arm.target)
        if not path.is_file():
            continue
        tuned = Tuned.from_dict(folder.read_json(path))
        for trial in tuned.trials:
            best = tuned.chosen
            chosen = (trial.expert_count, trial.layers, trial.strength) == (
                best.expert_count,
                best.layers,
                best.strength,
            )
            yield asdict(trial) | {"variant": arm.variant, "target": arm.target, "chosen": chosen}


def _shifts(folder: RunFolder, result: RunResult) -> Shifts:
    """Return the change of shares for every steered arm whose strength is not zero."""
    shifts = {}
    for arm in shown_arms(result):
        path = folder.routing(arm.variant, arm.target)
        if path.is_file() and isinstance(arm.settings, Settings) and arm.settings.strength > 0:
            shares: RoutingShares = folder.read_json(path)
            shift = np.array(shares["steered"]) - np.array(shares["base"])
            shifts[arm.variant, arm.target] = shift
    return shifts

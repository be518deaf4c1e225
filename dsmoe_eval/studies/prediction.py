"""The effect of one profile, foretold from the identification split, checked on the tuning split.

Nothing of the test split is answered: only its items are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..cards import OUTCOMES, OutcomeName, StageSplit
from ..engines.base import Engine
from ..engines.lm import EngineLM
from ..experts import Form
from ..models.prompt_format import Asked, prompt_format
from ..progress import Steps, counted_as, progress_bar
from ..runs.cells import ask, item_outcomes
from ..runs.first_order import Slopes, unit_shifts
from ..runs.influence import task_influence
from ..runs.outcome_items import items_by_task
from ..stats import Prediction, pool_predictions, predict_mean
from ..steering import Profile
from ..tasks.outcomes import has_gold_logprob
from .questions import ANSWERED, Part, Questions

Outcomes = Mapping[str, Mapping[OutcomeName, NDArray[np.float64]]]
"""Task name -> outcome -> the value of each item, more is better."""
SHARES = (0.25, 0.5, 1.0)
"""The parts of the profile's strength that are tried."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PredictedEffect:
    """One outcome of the target, or of the non-targets together, at one strength.

    Attributes:
        strength: the strength, `share` times the profile's.
        items: the number of items of the identification split; `tuning_items` and `test_items`
            likewise.
        holds: whether, at this and all smaller strengths, the change that was measured on the
            tuning split was within the interval that was foretold for it.
        gain: the expected change, positive for the better; None where `holds` is false. The next
            three likewise.
        ci95: the 95 % prediction interval of the change on the test items.
        mde80: the smallest change that the test items show with 80 % power.
        first_order: influence times shift, as far as it predicts the tuning split likewise; None
            beyond that, of other outcomes than `gold_logprob`, and where no logits are shifted.
        tuning_gain: the change that was measured on the tuning split.
        tuning_ci95: the interval that was foretold for it.
    """

    strength: float
    share: float
    part: Part
    outcome: OutcomeName
    items: int
    tuning_items: int
    test_items: int
    holds: bool
    gain: float | None
    ci95: tuple[float, float] | None
    mde80: float | None
    first_order: float | None
    tuning_gain: float
    tuning_ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ProfilePrediction:
    """The content of `predict.json`.

    Attributes:
        effects: by part and outcome, each in the order of strength.
        without: tasks that are not foretold.
    """

    model: str
    profile: str
    method: str
    intervention: str
    experts: int
    suite: str
    domain: str
    without: tuple[str, ...]
    effects: tuple[PredictedEffect, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)

    def holds_to(self, part: Part, outcome: OutcomeName) -> float | None:
        """Return the largest strength at which the prediction holds; None if there is none."""
        rows = [one for one in self.effects if (one.part, one.outcome) == (part, outcome)]
        return max((one.strength for one in rows if one.holds), default=None)


def predict_profile(
    engine: Engine,
    profile: Profile,
    questions: Questions,
    *,
    prompt: Asked = "auto",
    root: Path | None = None,
    console: Console | None = None,
) -> ProfilePrediction:
    """Compute the expected effect of a profile at parts of its strength, and check it.

    Args:
        engine: the model's engine.
        profile: the profile.
        questions: those of `questions.load_questions`.
        prompt: whether questions are put into the chat template; see `prompt_format`.
        root: the folder in which the pass of influence is stored.
        console: the console that shows the cost and the progress; by default stderr.

    Raises:
        UserError: an item has no outcome, or a prompt does not fit.
        SteeringError: this model cannot be steered by this profile.
    """
    shown, root = console or Console(stderr=True), root or Path("out") / "observations"
    lm = engine.language_model(prompt_format(engine.identity.name, engine.tokenizer, prompt))
    own, shares = questions.in_format(lm), _shares(profile)
    asked = sum(map(own.answers, ANSWERED)) * (1 + len(shares))
    shown.print(prediction_cost(own, profile), highlight=False, soft_wrap=True)
    with progress_bar(shown, "predict effects", asked, "answers") as steps:
        base = _answered(lm, own, steps)
        tried: dict[float, Mapping[StageSplit, Outcomes]] = {}
        for share in shares:
            with engine.steer(_at(profile, share)):
                tried[share] = _answered(lm, own, steps)
    slopes = _slopes(engine, profile, own, lm.uses_chat_template, root, shown)
    identity, intervention = engine.identity, profile.intervention
    rows = (
        one
        for part, names in own.parts.items()
        for outcome in OUTCOMES
        for one in _effects(own, profile, part, names, outcome, base, tried, slopes)
    )
    return ProfilePrediction(
        model=identity.name,
        profile=profile.id,
        method=profile.method,
        intervention=intervention.kind,
        experts=len(profile.experts),
        suite=own.suite,
        domain=own.domain,
        without=own.without,
        effects=tuple(rows),
    )


def prediction_cost(questions: Questions, profile: Profile) -> str:
    """Return in words what a prediction will compute."""
    counts = {split: questions.answers(split) for split in ANSWERED}
    words = (
        f"predict: base and {len(_shares(profile))} strengths, each {counts['identification']:,} "
        f"answers to the identification split and {counts['tuning']:,} to the tuning split"
    )
    if unit_shifts(profile) is not None:
        words += "; one forward and backward pass over the former"
    return f"{words}; of the test split {questions.answers('test'):,} items are only counted"


def _shares(profile: Profile) -> tuple[float, ...]:
    return (1.0,) if profile.intervention.kind == "mask" else SHARES


def _at(profile: Profile, share: float) -> Profile:
    strength = profile.intervention.strength
    return profile if share == 1 else profile.with_strength(share * strength)


def _answered(lm: EngineLM, questions: Questions, steps: Steps) -> Mapping[StageSplit, Outcomes]:
    found: dict[StageSplit, Outcomes] = {}
    for split in ANSWERED:
        outcomes = {}
        for name, task in questions.splits[split].items():
            with counted_as(steps, task.answers_asked, task.requests_asked) as count:
                outcomes[name] = item_outcomes(lm, task, ask(lm, task, None, count))
        found[split] = outcomes
    return found


def _slopes(
    engine: Engine, profile: Profile, questions: Questions, chat: bool, root: Path, shown: Console
) -> Slopes | None:
    """Return the influence of experts on the tasks, in the gradient form, if logits are shifted."""
    tasks = questions.splits["identification"]
    asked = {name: task for name, task in tasks.items() if has_gold_logprob(task)}
    if unit_shifts(profile) is None or not asked:
        return None
    read = items_by_task(engine, asked, chat, None)
    with progress_bar(shown, "influence of experts", read.texts, "texts") as steps:
        return Slopes("gradient", task_influence(engine, read, Form(), root, steps))


def _effects(
    questions: Questions,
    profile: Profile,
    part: Part,
    names: Sequence[str],
    outcome: OutcomeName,
    base: Mapping[StageSplit, Outcomes],
    tried: Mapping[float, Mapping[StageSplit, Outcomes]],
    slopes: Slopes | None,
) -> Iterator[PredictedEffect]:
    """Yield the effects on an outcome of some tasks, in the order of strength."""
    having = [name for name in names if outcome in base["identification"][name]]
    holds = of_slopes = bool(having)
    for share, after in tried.items() if having else ():
        steered = _at(profile, share)
        coming, checked = (
            _pooled(questions, having, outcome, base, after, split) for split in ("test", "tuning")
        )
        measured = _measured(questions, having, outcome, base, after)
        of_slope = partial(_first_order, questions, steered, having, outcome, slopes)
        first = of_slope("test")
        interval = None if checked is None else checked.ci95
        holds = holds and _within(interval, 0.0, measured)
        of_slopes = of_slopes and _slopes_hold(checked, of_slope("tuning"), measured)
        yield PredictedEffect(
            strength=steered.intervention.strength,
            share=share,
            part=part,
            outcome=outcome,
            items=sum(questions.items(having, "identification")),
            tuning_items=sum(questions.items(having, "tuning")),
            test_items=sum(questions.items(having, "test")),
            holds=holds,
            gain=coming.delta if holds and coming is not None else None,
            ci95=coming.ci95 if holds and coming is not None else None,
            mde80=coming.mde80 if holds and coming is not None else None,
            first_order=first if of_slopes else None,
            tuning_gain=measured,
            tuning_ci95=interval,
        )


def _measured(
    questions: Questions,
    names: Sequence[str],
    outcome: OutcomeName,
    base: Mapping[StageSplit, Outcomes],
    after: Mapping[StageSplit, Outcomes],
) -> float:
    """Return the mean change of the items of the tuning split."""
    pairs = ((base["tuning"][name][outcome], after["tuning"][name][outcome]) for name in names)
    weights = questions.items(names, "tuning")
    return float(np.average([(b - a).mean() for a, b in pairs], weights=weights))


def _first_order(
    questions: Questions,
    profile: Profile,
    names: Sequence[str],
    outcome: OutcomeName,
    slopes: Slopes | None,
    split: StageSplit,
) -> float | None:
    """Return the change of the mean of a split's items to first order; None where there is none."""
    if outcome != "gold_logprob" or slopes is None:
        return None
    values = [slopes.of(profile, name) or 0.0 for name in names]
    return float(np.average(values, weights=questions.items(names, split)))


def _slopes_hold(checked: Prediction | None, first: float | None, measured: float) -> bool:
    """Return whether a change is within an interval as wide as foretold, around first order."""
    if checked is None or first is None:
        return False
    return _within(checked.ci95, first - checked.delta, measured)


def _within(interval: tuple[float, float] | None, shift: float, value: float) -> bool:
    """Return whether a value is in an interval that is moved; in none, where there is none."""
    if interval is None:
        return False
    low, high = interval
    return low + shift - _ROUNDING <= value <= high + shift + _ROUNDING


def _pooled(
    questions: Questions,
    names: Sequence[str],
    outcome: OutcomeName,
    base: Mapping[StageSplit, Outcomes],
    after: Mapping[StageSplit, Outcomes],
    split: StageSplit,
) -> Prediction | None:
    """Return what the identification split foretells of the items of another split."""
    known, before = questions.splits["identification"], base["identification"]
    parts = [
        predict_mean(
            before[name][outcome],
            after["identification"][name][outcome],
            [item.cluster for item in known[name].items],
            [item.cluster for item in questions.splits[split][name].items],
        )
        for name in names
    ]
    return parts[0] if len(parts) == 1 else pool_predictions(parts, questions.items(names, split))

"""How often do prediction intervals hold, by strength and by number of experts?

    python benchmarks/foretold_calibration.py lab-poly lab-smol --out reports/influence

Experts are chosen by influence, by contrast (risk difference) and at random (matched to those of
contrast), and raised by a bias. The mean change of each domain's outcome is foretold from the
identification split, by answers at that strength and to first order, and measured on the tuning
split. The test split is not read. Experts that influence chooses are chosen on the items that
predict, so that their predictions are expected to be too good. Each model's figures are kept in
`calibration-MODEL.json`; the page is written from all that are there. Strengths are in log-odds on
`lab-poly`, on `lab-smol` in units of the spread of each layer's logits (sigma).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

mpl.use("Agg")
import matplotlib.pyplot as plt

from dsmoe_eval.cards import Identification
from dsmoe_eval.engines.base import Engine
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import (
    Form,
    OutcomeItem,
    RoutingCounts,
    choose_experts,
    exposure,
    get_method,
    matched_experts,
)
from dsmoe_eval.files import write_json, write_text
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.progress import progress_bar
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.first_order import Slopes
from dsmoe_eval.runs.identification import count_text
from dsmoe_eval.runs.influence import influence_of
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.stats import predict_mean
from dsmoe_eval.steering import ChosenExpert, Intervention, Profile
from dsmoe_eval.tasks.identification import document_tasks, identification_text, suite_text
from dsmoe_eval.tasks.items import WithItems
from dsmoe_eval.tasks.loading import load_tasks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """What is tried on a model.

    Attributes:
        numbers: numbers of experts; `strengths` in log-odds, or in sigma.
        singles: the number of single experts of each domain, drawn at random, at `single`.
    """

    suite: str
    domains: tuple[str, ...]
    unit: str
    choices: tuple[str, ...]
    numbers: tuple[int, ...]
    strengths: tuple[float, ...]
    singles: int
    single: float
    limit: int | None
    batch_tokens: int


NARROW = 0.001
DESIGNS = {
    "lab-poly": Design(
        "lab", ("math", "biology", "physics", "chemistry"), "odds",
        ("influence", "contrast", "random"), (1, 8, 16, 24), (0.25, 0.5, 1.0, 1.5), 48, 0.5, None,
        8192,
    ),
    "lab-smol": Design(
        "smol", ("law", "math", "biology"), "sigma", ("influence", "random"), (1, 10), (0.5, 1.0),
        0, 0.5, 12, 2048,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One profile's effect on its domain's outcome, in nats.

    Attributes:
        foretold: by answers at this strength; `low` and `high` are the prediction interval.
        exact: to first order, by the routing-exact form; `gradient` by the gradient form.
        measured: on the tuning split.
    """

    model: str
    domain: str
    choice: str
    experts: int
    strength: float
    foretold: float
    low: float
    high: float
    exact: float
    gradient: float
    measured: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.low <= self.measured <= self.high


def split_tasks(design: Design) -> dict[str, dict[str, dict[str, WithItems]]]:
    """Return split -> domain -> tasks, of which the first split predicts: options, or documents."""
    suite, found = load_suite(design.suite), {}
    for split in ("identification", "tuning"):
        tasks: dict[str, WithItems]
        if suite.documents is None:
            tasks = {**load_tasks(suite, suite.only_answered, split, design.limit)}
        else:
            given = suite.documents.model_copy(update={"split": split})
            tasks = {**document_tasks(suite.model_copy(update={"documents": given}), design.limit)}
        found[split] = {
            domain: {n: t for n, t in tasks.items() if t.card.domain == domain}
            for domain in design.domains
        }
    return found


def identified(engine: Engine, design: Design, root: Path, console: Console) -> RoutingCounts:
    """Count the routing of the identification text, with the influence on right answers."""
    suite = load_suite(design.suite)
    if suite.documents is None:
        text = identification_text(design.suite, design.limit, answered=True)
    else:
        text = suite_text(suite, {}, design.limit)
        kept = {n: t for n, t in text.tasks.items() if t.card.domain in design.domains}
        text = replace(text, tasks=kept)
    method, settings = get_method("influence"), Identification()
    return count_text(engine, text, method, settings, {}, root=root, console=console)


def outcomes(engine: Engine, items: Sequence[OutcomeItem]) -> Floats:
    """The outcome of each item, of the model in its present state."""
    pairs = [(t.tokens[: t.start], t.tokens[t.start :]) for item in items for t in item.texts]
    lm = engine.language_model()
    found = iter(lm._loglikelihood_tokens([("", list(a), list(b)) for a, b in pairs]))
    values = [np.array([next(found)[0] for _ in item.texts]) for item in items]
    return np.array([item.weights(row)[0] for item, row in zip(items, values, strict=True)])


def experts_by(
    choice: str, counts: RoutingCounts, domain: str, number: int
) -> tuple[ChosenExpert, ...]:
    """Choose by influence or contrast, or at random to match the choice of contrast."""
    method = get_method("influence" if choice == "influence" else "risk-difference")
    chosen = choose_experts(method, counts, domain, number)
    if choice != "random":
        return chosen
    return matched_experts(chosen, exposure(counts), counts.layers, 0)


def profiles(
    engine: Engine, design: Design, counts: RoutingCounts, domain: str
) -> Iterator[tuple[str, Profile]]:
    """Yield the choice of experts, and its profile, of every setting that is tried on a domain."""
    empty = trial_profile(engine.identity, Intervention(kind="bias", strength=1.0), [0])
    sigmas = tuple(counts.sigmas().items())

    def made(experts: Sequence[ChosenExpert], strength: float) -> Profile:
        odds = Intervention(kind="bias", strength=math.expm1(strength))
        sigma = Intervention(kind="bias", strength=strength, unit="sigma", sigmas=sigmas)
        intervention = odds if design.unit == "odds" else sigma
        return empty.model_copy(update={"experts": tuple(experts), "intervention": intervention})

    for choice in design.choices:
        for number in design.numbers:
            chosen = experts_by(choice, counts, domain, number)
            for strength in design.strengths:
                yield choice, made(chosen, strength)
    yield "sham", made(choose_experts(get_method("influence"), counts, domain, 8), 0.0)
    every = [(layer, e) for layer in engine.identity.layers for e in range(counts.experts)]
    drawn = np.random.default_rng([0, design.domains.index(domain)])
    for at in drawn.permutation(len(every))[: design.singles]:
        layer, expert = every[at]
        yield "any", made([ChosenExpert(layer=layer, expert=expert, score=1.0)], design.single)


def calibrate(model: str, root: Path, console: Console) -> list[Effect]:
    """Foretell and measure all settings of a model."""
    design = DESIGNS[model]
    engine = load_engine(model, device="cpu", batch_tokens=design.batch_tokens)
    counts = identified(engine, design, root, console)
    splits = split_tasks(design)
    found = []
    for domain in design.domains:
        items = {s: outcome_items(engine, by[domain]) for s, by in splits.items()}
        own = items["identification"]
        seen = influence_of(engine, own, Form(), root).influence.astype(np.float64).mean(0)
        # The exact form has been computed on these items, to choose by it.
        exact = tables(counts)[counts.domains.index(domain), 0]
        slopes = {"exact": Slopes("exact", {"": exact}), "gradient": Slopes("gradient", {"": seen})}
        base = {s: outcomes(engine, one) for s, one in items.items()}
        tried = [*profiles(engine, design, counts, domain)]
        with progress_bar(console, f"{model}, {domain}", len(tried), "profiles") as advance:
            for choice, profile in tried:
                with engine.steer(profile):
                    after = {s: outcomes(engine, one) for s, one in items.items()}
                found.append(effect(model, domain, choice, profile, items, base, after, slopes))
                advance(1)
    return found


def tables(counts: RoutingCounts) -> Floats:
    """The influence in the counts: [domains, 2, layers, experts]."""
    if counts.influence is None:
        raise ValueError("the counts have no influence")
    return counts.influence


def effect(
    model: str,
    domain: str,
    choice: str,
    profile: Profile,
    items: Mapping[str, Sequence[OutcomeItem]],
    base: Mapping[str, Floats],
    after: Mapping[str, Floats],
    slopes: Mapping[str, Slopes],
) -> Effect:
    """Foretell a profile's effect, and compare it with the tuning split."""
    labels = {s: [one.cluster or str(at) for at, one in enumerate(i)] for s, i in items.items()}
    found = predict_mean(
        base["identification"], after["identification"], labels["identification"], labels["tuning"]
    )
    low, high = found.ci95 or (math.nan, math.nan)
    strength = profile.intervention.strength
    return Effect(
        model, domain, choice, len(profile.experts),
        strength if DESIGNS[model].unit == "sigma" else round(math.log1p(strength), 6),
        found.delta, low, high,
        slopes["exact"].of(profile, "") or 0.0, slopes["gradient"].of(profile, "") or 0.0,
        float((after["tuning"] - base["tuning"]).mean()),
    )  # fmt: skip


def slope(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Of the line of least squares of the second on the first; None of fewer than four."""
    x, y = np.array(pairs).T
    return None if len(pairs) < 4 or np.ptp(x) == 0 else float(np.polyfit(x, y, 1)[0])


def summary(effects: Sequence[Effect]) -> list[str]:
    """Return the cells of a row of a table on some effects."""
    share = sum(one.covered for one in effects) / len(effects)
    found = [str(len(effects)), f"{100 * share:.0f} %"]
    for name in ("foretold", "exact", "gradient"):
        value = slope([(getattr(one, name), one.measured) for one in effects])
        found.append("" if value is None else f"{value:.2f}")
    return found


HEAD = ["effects", "inside", "slope", "slope, exact form", "slope, gradient form"]


def table(
    first: str, effects: Sequence[Effect], by: Callable[[Effect], Any], show: Callable[[Any], str]
) -> str:
    """Return a Markdown table of effects grouped by something."""
    keys = sorted({by(one) for one in effects})
    rows = [[first, *HEAD], ["---"] + ["---:"] * len(HEAD)]
    rows += [[show(key), *summary([one for one in effects if by(one) == key])] for key in keys]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def inside(effects: Sequence[Effect]) -> str:
    """Say how many of some effects are inside their interval."""
    return f"{sum(one.covered for one in effects)} of {len(effects)}"


def barred(effects: Sequence[Effect]) -> list[Effect]:
    """The effects of which at least 90 % are to be inside, on `lab-poly`."""
    return [one for one in effects if one.experts == 1 or one.choice in ("sham", "random")]


def findings(effects: Sequence[Effect]) -> str:
    """Say how many effects are inside, of the kinds that the bar is about, and why others miss."""
    kinds = {
        "single experts": [one for one in effects if one.experts == 1],
        "of these drawn at random": [one for one in effects if one.choice == "any"],
        "sham": [one for one in effects if one.choice == "sham"],
        "placebo, all numbers": [one for one in effects if one.choice == "random"],
        "these together, the bar is 90 %": barred(effects),
        "all": effects,
    }
    said = "; ".join(f"{name}: {inside(own)}" for name, own in kinds.items() if own)
    missed = [one for one in effects if not one.covered]
    narrow = sum(one.high - one.low < NARROW for one in missed)
    return (
        f"Inside: {said}. Of {len(missed)} misses {narrow} have an interval narrower than "
        f"{NARROW:g} nats: the expert changed nearly none of the items that predict, and some of "
        "the others."
    )


def page(effects: Mapping[str, Sequence[Effect]]) -> str:
    """Return the page; everything in it follows from the kept figures."""
    parts = [
        "# Do prediction intervals hold?",
        "Made by `python benchmarks/foretold_calibration.py lab-poly lab-smol --out "
        "reports/influence`: its first lines say how. An effect is the mean change of a domain's "
        'outcome, in nats, under one profile. "inside": measured effects (tuning split) in the 95 '
        "% prediction interval from the identification split. slope: of measured on foretold by "
        "answers at that strength; exact and gradient form: on influence times shift. Chosen by "
        "`any`: single experts, drawn at random from all; by `random`: the placebo of contrast.",
        "![Foretold and measured effects](calibration.png)",
    ]
    for model, own in effects.items():
        design, steered = DESIGNS[model], [one for one in own if one.choice != "sham"]
        unit = "log-odds" if design.unit == "odds" else "sigma"
        parts += [
            f"## {model}",
            findings(own),
            table(f"strength, {unit}", steered, lambda one: one.strength, "{:g}".format),
            table("experts", steered, lambda one: one.experts, str),
            table("chosen by", steered, lambda one: one.choice, str),
        ]
    return "\n\n".join(parts) + "\n"


def figure(effects: Mapping[str, Sequence[Effect]], path: Path) -> None:
    """Draw measured on foretold effects: by answers, and to first order."""
    names = {"foretold": "by answers at the strength", "exact": "first order, exact form"}
    drawn, panels = plt.subplots(
        len(effects), len(names), figsize=(9, 4 * len(effects)), squeeze=False, layout="constrained"
    )
    for row, (model, own) in zip(panels, effects.items(), strict=True):
        for axis, (name, title) in zip(row, names.items(), strict=True):
            for number in sorted({one.experts for one in own}):
                some = [one for one in own if one.experts == number]
                x, y = [getattr(one, name) for one in some], [one.measured for one in some]
                axis.plot(
                    x, y, "o", markersize=4, alpha=0.7, label=f"{number} expert{'s' * (number > 1)}"
                )
            ends = [min(axis.get_xlim()[0], 0), axis.get_xlim()[1]]
            axis.plot(ends, ends, "--", color="black", linewidth=1)
            axis.set_title(f"{model}: {title}", fontsize="medium")
            axis.set_xlabel("foretold, nats")
            axis.set_ylabel("measured, nats")
        row[0].legend(fontsize="small")
    drawn.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(drawn)


def kept(out: Path) -> dict[str, list[Effect]]:
    """Read the figures of the models that are there."""
    paths = {model: out / f"calibration-{model}.json" for model in DESIGNS}
    return {
        model: [Effect(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        for model, path in paths.items()
        if path.is_file()
    }


@click.command()
@click.argument("models", nargs=-1, type=click.Choice([*DESIGNS]))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--observations", type=click.Path(path_type=Path), default=Path("out/observations"))
def main(models: tuple[str, ...], out: Path, observations: Path) -> None:
    """Measure these models, and write the page from all figures that are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for model in models:
        rows = calibrate(model, observations, Console(stderr=True))
        write_json(out / f"calibration-{model}.json", [asdict(row) for row in rows])
    found = kept(out)
    figure(found, out / "calibration.png")
    write_text(out / "calibration.md", page(found))


if __name__ == "__main__":
    main()

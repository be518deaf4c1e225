"""How well do methods' scores foretell what is measured when single experts are raised or masked?

    python benchmarks/audit.py [--model lab-poly|lab-smol]   # writes reports/influence/audit.*

On `lab-poly` each of the 96 experts, on `lab-smol` 60 of 720, two of each layer. An expert is
raised by half a sigma, or masked, and the outcome of a domain's items is read: the log-probability
of right answers of the suite's four targets, or the log-likelihood of passages of three domains.
Scores are compared with the change by raising and with the cost of masking: on the items that
influence was computed from (what is left is the formula's error), and on others (with that of the
sample).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from audit_page import Audit, Measured, write_audit
from audit_readings import TextReading, answers_reading
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from dsmoe_eval.cards import DocumentFile, Identification
from dsmoe_eval.engines.base import Engine
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import (
    Form,
    InfluenceItems,
    OutcomeItem,
    RoutingCounts,
    ScoredText,
    all_methods,
)
from dsmoe_eval.experts.influence import UNIT
from dsmoe_eval.experts.influence_items import domain_tables
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import count_domains
from dsmoe_eval.runs.influence import READ, gaining, influence_of
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.studies.single_effects import MASK, raise_by, single_effects
from dsmoe_eval.tasks.identification import domain_texts, identification_text, text_tasks
from dsmoe_eval.tasks.items import WithItems
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.texts import documents_by_domain, read_text_file
from dsmoe_eval.variants import sigmas_of

Floats = NDArray[np.float64]
Rows = dict[str, list[int]]
RESAMPLES = 200
SMOL_DOMAINS = ("math", "law", "history")
SMOL_PASSAGES = 4
"""Passages of each domain on which effects are measured, each of another document."""
SMOL_OTHERS = 6
"""Passages of each domain, of other documents, from which scores are computed too."""
SMOL_PER_LAYER = 2


@dataclass(frozen=True)
class Sample:
    """What scores are computed from.

    Attributes:
        counts: of all that methods need but influence.
        steps: of each layer, half a sigma.
        maps: `exact` and `gradient` influence on answers (or passages), `text` on the text alone.
        gains: domain -> rows of the items that are to gain, in `exact` and `gradient`.
        kept: domain -> rows of those that must not change.
        texts: domain -> rows in `text`; empty without it.
    """

    counts: RoutingCounts
    steps: tuple[float, ...]
    maps: Mapping[str, InfluenceItems]
    gains: Rows
    kept: Rows
    texts: Rows


@dataclass(frozen=True)
class Effects:
    """The measured effects: `raised` and `masked` (the cost), each [units, items]."""

    units: tuple[tuple[int, int], ...]
    changes: Mapping[str, Floats]
    columns: Rows


def sample_of(
    engine: Engine, tasks: Mapping[str, WithItems], markers: Mapping[str, float], root: Path
) -> Sample:
    """Compute all that the methods read of a model's tasks; with labels, of the text alone too."""
    methods = [one for one in all_methods().values() if one.placebo_of is None]
    wanted = replace(IdentificationSpec.by(methods, Identification(), markers), influence=False)
    counts = count_domains(engine, tasks, wanted, root, lambda _: None)
    steps = tuple(UNIT * sigma for sigma in sigmas_of(counts).values())
    lists = {name: outcome_items(engine, {name: task}) for name, task in tasks.items()}
    rows, start = dict[str, range](), 0
    for name, items in lists.items():
        rows[name] = range(start, start := start + len(items))
    every = [one for items in lists.values() for one in items]
    maps = {
        "exact": influence_of(engine, every, Form(steps=steps), root),
        "gradient": influence_of(engine, every, Form(), root),
    }

    def of(chosen: Mapping[str, WithItems]) -> Rows:
        return {
            domain: [r for n, t in chosen.items() if t.card.domain == domain for r in rows[n]]
            for domain in counts.domains
        }

    read = {name: task for name, task in tasks.items() if READ in task.card.roles}
    texts: Rows = {}
    if gaining(tasks).keys() != read.keys():  # there are answered questions besides the text
        items = text_items(engine, tasks)
        maps["text"] = influence_of(engine, items, Form(steps=steps), root)
        for row, item in enumerate(items):
            texts.setdefault(item.domain, []).append(row)
    return Sample(counts, steps, maps, of(gaining(tasks)), of(read), texts)


def text_items(engine: Engine, tasks: Mapping[str, WithItems]) -> list[OutcomeItem]:
    """Return the identification text without answers, as texts whose likelihood counts."""
    items = []
    for domain, texts in domain_texts(tasks).items():
        for ids in engine.tokenizer(texts)["input_ids"]:
            text = ScoredText(tuple(ids), 1)
            items.append(OutcomeItem(domain, (text,), scales=(1 / text.scored,)))
    return items


def scores_of(sample: Sample, domain: str) -> dict[str, Floats]:
    """Return each method's scores, and influence in other forms, [layers, experts] each."""
    tables = domain_tables(sample.maps["exact"], sample.gains, sample.kept, sample.steps)
    counts = replace(sample.counts, influence=tables)
    found = {
        name: np.asarray(method.score(counts, domain), dtype=np.float64)
        for name, method in all_methods().items()
        if method.placebo_of is None
    }
    found["influence, gradient form"] = mean_map(sample, "gradient", sample.gains[domain])
    if sample.texts:
        found["influence on text alone"] = mean_map(sample, "text", sample.texts[domain])
    return found


def mean_map(sample: Sample, name: str, rows: Sequence[int]) -> Floats:
    """Return the mean influence over items, less the layer's mean."""
    mean = sample.maps[name].influence[rows].astype(np.float64).mean(0)
    return mean - mean.mean(-1, keepdims=True)


def resampled(sample: Sample, generator: np.random.Generator) -> Sample:
    """Draw documents and items again, each within its domain; tuned routers stay as they are."""
    counts, weight = sample.counts, np.zeros(len(sample.counts.domain))
    for index in range(len(counts.domains)):
        rows = np.flatnonzero(counts.domain == index)
        np.add.at(weight, generator.choice(rows, len(rows)), 1)

    def again(rows: Rows) -> Rows:
        return {d: generator.choice(r, len(r)).tolist() for d, r in rows.items()}

    of_text = replace(counts, use_change=None).resampled(weight)
    return replace(
        sample, counts=replace(of_text, use_change=counts.use_change), gains=again(sample.gains),
        kept=again(sample.kept), texts=again(sample.texts),
    )  # fmt: skip


def compare(sample: Sample, effects: Effects, same: bool) -> list[Measured]:
    """Compare all scores with the effects, with intervals from resampled documents and items.

    Args:
        sample: what scores are computed from.
        effects: the measured effects.
        same: whether the effects' items are those that are to gain in the sample, in that order.
    """
    domains = list(effects.columns)
    value = correlations(sample, effects, effects.columns)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        again = resampled(sample, generator)
        columns: Rows = {}
        for domain in domains:
            own = effects.columns[domain]
            picks = generator.integers(len(own), size=len(own)).tolist()
            if same:
                at = {row: place for place, row in enumerate(sample.gains[domain])}
                picks = [at[row] for row in again.gains[domain]]
            columns[domain] = [own[pick] for pick in picks]
        drawn.append(correlations(again, effects, columns))
    return [
        {
            "method": method,
            "effect": change,
            "items": "same" if same else "others",
            "pearson": interval(value[method, change][0], [d[method, change][0] for d in drawn]),
            "spearman": interval(value[method, change][1], [d[method, change][1] for d in drawn]),
            "by_domain": {
                domain: [float(one) for one in value[method, change][:, at]]
                for at, domain in enumerate(domains)
            },
        }
        for method, change in value
    ]  # fmt: skip


def correlations(sample: Sample, effects: Effects, columns: Rows) -> dict[tuple[str, str], Floats]:
    """Return Pearson's and Spearman's correlation by domain, [2, domains], of method and change."""
    layers = {layer: row for row, layer in enumerate(sample.counts.layers)}
    at = tuple(np.array([(layers[layer], expert) for layer, expert in effects.units]).T)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for domain, chosen in columns.items():
        scores = scores_of(sample, domain)
        for (method, score), (change, table) in product(scores.items(), effects.changes.items()):
            pair = score[at], table[:, chosen].mean(1)
            both = [float(pearsonr(*pair).statistic), float(spearmanr(*pair).statistic)]
            found.setdefault((method, change), []).append(both)
    return {key: np.array(pairs).T for key, pairs in found.items()}


def interval(value: Floats, drawn: Sequence[Floats]) -> dict[str, float]:
    """Return the mean over domains, and a 95 % interval around it.

    It has the width of the resamples' percentiles on Fisher's scale (artanh). Its middle is not
    theirs: a resample has the noise of the sample twice, and so a smaller correlation.
    """
    low, high = np.arctanh(np.percentile([one.mean() for one in drawn], [2.5, 97.5]))
    middle, half = np.arctanh(value.mean()), (high - low) / 2
    ends = np.tanh([middle - half, middle + half])
    return {"value": float(value.mean()), "low": float(ends[0]), "high": float(ends[1])}


def measured(
    engine: Engine,
    units: Sequence[tuple[int, int]],
    reading: Callable[[int], Callable[[], Floats]],
    sigmas: Mapping[int, float],
    columns: Rows,
) -> Effects:
    """Raise and mask each expert; `reading` gives the outcomes' reader for changes in a layer."""
    changes = {}
    before = reading(0)()
    for name, change in {"raised": raise_by(sigmas), "masked": MASK}.items():
        parts = []
        for layer in dict.fromkeys(layer for layer, _ in units):
            own = [one for one in units if one[0] == layer]
            parts.append(single_effects(engine, change, own, reading(layer), before))
            click.echo(f"{name}: layer {layer}", err=True)
        changes[name] = np.concatenate(parts) * (-1 if name == "masked" else 1)
    return Effects(tuple(units), changes, columns)


def audit_poly(limit: int | None = None) -> Audit:
    """Audit the embedded model: all experts, four targets."""
    engine, suite = load_engine("lab-poly", device="cpu"), load_suite("lab")
    tasks = identification_text("lab", limit, answered=True).tasks
    rows, units = [], list(product(engine.identity.layers, range(engine.identity.experts)))
    with TemporaryDirectory() as folder:
        sample = sample_of(engine, tasks, suite.markers, Path(folder))
    for split in ("identification", "tuning"):
        items = outcome_items(engine, load_tasks(suite, suite.only_answered, split, limit))
        columns = {t: [at for at, i in enumerate(items) if i.domain == t] for t in suite.targets}
        reading = answers_reading(engine, items)
        effects = measured(engine, units, lambda _, r=reading: r, sigmas_of(sample.counts), columns)
        rows += compare(sample, effects, split == "identification")
    labels = {}
    for target in suite.targets:
        answers = mean_map(sample, "exact", sample.gains[target])
        text = mean_map(sample, "text", sample.texts[target])
        labels[target] = float(pearsonr(answers.ravel(), text.ravel()).statistic)
    return audit(engine, rows, suite.targets, len(units), len(columns[suite.targets[0]]), labels)


def audit_smol(passages: int = SMOL_PASSAGES) -> Audit:
    """Audit the carved language model: two experts of each layer, three domains."""
    engine, suite = load_engine("lab-smol", device="cpu"), load_suite("smol")
    given = suite.documents or DocumentFile(file=Path())
    there = documents_by_domain(
        [one for one in read_text_file(given.file) if one.split == given.split]
    )
    cut = DocumentFile(file=given.file, characters=given.characters, chunks=1)
    parts = {
        "same": [one for domain in SMOL_DOMAINS for one in there[domain][:passages]],
        "others": [
            one for domain in SMOL_DOMAINS for one in there[domain][passages:][:SMOL_OTHERS]
        ],
    }
    samples = {}
    for name, documents in parts.items():
        with TemporaryDirectory() as folder:
            tasks = text_tasks(documents, None, cut)
            samples[name] = sample_of(engine, tasks, suite.markers, Path(folder))
            click.echo(f"scores of {len(documents)} {name} passages", err=True)
    items = samples["same"].maps["exact"].items
    columns = samples["same"].gains
    reading = TextReading(engine, items)
    generator = np.random.default_rng(0)
    units = [
        (layer, int(expert))
        for layer in engine.identity.layers
        for expert in sorted(generator.choice(engine.identity.experts, SMOL_PER_LAYER, False))
    ]
    sigmas = sigmas_of(samples["same"].counts)
    effects = measured(engine, units, reading.above, sigmas, columns)
    rows = [one for name, s in samples.items() for one in compare(s, effects, name == "same")]
    return audit(engine, rows, SMOL_DOMAINS, len(units), passages, {})


def audit(
    engine: Engine,
    rows: list[Measured],
    domains: Sequence[str],
    experts: int,
    items: int,
    labels: dict[str, float],
) -> Audit:
    """Return a model's part of `audit.json`."""
    identity = engine.identity
    return {
        "model": identity.name,
        "fingerprint": identity.fingerprint,
        "domains": list(domains),
        "experts": experts,
        "of": len(identity.layers) * identity.experts,
        "items": items,
        "resamples": RESAMPLES,
        "rows": rows,
        "text_with_answers": labels,
    }


MODELS: dict[str, Callable[[], Audit]] = {"lab-poly": audit_poly, "lab-smol": audit_smol}


@click.command()
@click.option("--model", type=click.Choice(list(MODELS)), help="Audit this one only [both].")
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path("reports/influence/audit.json"),
    show_default=True, help="The JSON; page and picture are beside it.",
)  # fmt: skip
def main(model: str | None, to: Path) -> None:
    """Write the audit; the part of a model that is left out stays."""
    parts: dict[str, Audit] = json.loads(to.read_text()) if to.is_file() else {}
    for name in MODELS if model is None else (model,):
        parts[name] = MODELS[name]()
    write_audit({name: parts[name] for name in MODELS if name in parts}, to)


if __name__ == "__main__":
    main()

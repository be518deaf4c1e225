"""What a first-order statement about experts leaves out, each part measured by brute force.

    python benchmarks/first_order.py lab-poly
    python benchmarks/first_order.py lab-smol --suite smol --domain math --domain law --limit 24

Influence is computed, and effects are measured, on the same items of the identification split, so
that the sample's error is in neither. The experts are the most influential ones (routing-exact form
less the layer's mean). Shifts are in units of the layer's logit spread, sigma. The test split is
not read.

- selection: the two forms' sums over these experts, each raised alone by half a sigma, beside what
  was measured.
- curvature: the mean effect of one expert alone, per sigma, at growing strengths.
- interaction: what k experts do together at half a sigma, by the sum of what each does alone.
- far: what all of them do together at growing strengths, by that sum times the strength.
- common: the share of the items' squared gradients that is the square of their mean. A profile of a
  whole domain moves along the mean only; the rest could help single items, and nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from foretold_effects import Floats, outcomes

from dsmoe_eval.cards import Identification
from dsmoe_eval.engines.base import Engine
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import Form, OutcomeItem, count_routing
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.runs.identification import read_documents
from dsmoe_eval.runs.influence import gaining, influence_of
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.steering import ChosenExpert, Intervention
from dsmoe_eval.tasks.identification import identification_text

STEP = 0.5
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
SINGLES = 16
"""The number of experts that are raised alone; the largest number that is raised together."""


@dataclass(frozen=True)
class LeftOut:
    """What first order leaves out, for one domain; effects in nats.

    Attributes:
        gradient: the sum over the experts of the gradient form, times half a sigma.
        exact: the same of the routing-exact form.
        alone: the sum of the measured effects at half a sigma.
        per_sigma: strength in sigmas -> the mean measured effect of an expert alone, per sigma.
        together: number of experts -> the measured joint effect at half a sigma.
        sums: number of experts -> the sum of their measured effects.
        far: strength in sigmas -> the measured joint effect of all.
        common: the share of the mean in the items' squared gradients; `common_exact` of the exact
            form. Without the share that chance gives.
    """

    domain: str
    items: int
    gradient: float
    exact: float
    alone: float
    per_sigma: dict[float, float]
    together: dict[int, float]
    sums: dict[int, float]
    far: dict[float, float]
    common: float
    common_exact: float


def left_out(
    model: str, suite: str, domains: Sequence[str], limit: int | None = None
) -> list[LeftOut]:
    """Measure what first order leaves out on a model."""
    engine = load_engine(model, device="cpu")
    text = identification_text(suite, limit, (), answered=True)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        documents = read_documents(engine, text.tasks, Identification(), root)
        seen = engine.observe(
            documents, root, reader=None, contributions=False, advance=lambda _: None
        )
        counts = count_routing(seen)
        sigmas = np.array([counts.sigmas()[layer] for layer in engine.identity.layers])
        every = outcome_items(engine, gaining(text.tasks))
        chosen = domains or (text.suite.targets if text.suite else text.domains)
        return [
            _of_domain(engine, [i for i in every if i.domain == domain], sigmas, root)
            for domain in chosen
        ]


def _of_domain(engine: Engine, items: Sequence[OutcomeItem], sigmas: Floats, root: Path) -> LeftOut:
    gradient = influence_of(engine, items, Form(), root).influence * sigmas[:, None]
    steps = tuple(STEP * sigmas)
    exact = influence_of(engine, items, Form(steps=steps), root).influence * sigmas[:, None]
    mean = exact.mean(0)
    order = np.argsort(-(mean - mean.mean(1, keepdims=True)), axis=None)[:SINGLES]
    places = [(int(place) // mean.shape[1], int(place) % mean.shape[1]) for place in order]
    before = outcomes(engine, items).mean()

    def effect(raised: Sequence[tuple[int, int]], strength: float) -> float:
        layers, intervention = engine.identity.layers, Intervention(
            kind="bias", strength=1.0, unit="scores"
        )  # fmt: skip
        experts = tuple(
            ChosenExpert(layer=layers[row], expert=expert, score=float(strength * sigmas[row]))
            for row, expert in raised
        )
        profile = trial_profile(engine.identity, intervention, [0])
        with engine.steer(profile.model_copy(update={"experts": experts})):
            return float(outcomes(engine, items).mean() - before)

    alone = {s: [effect([place], s) for place in places] for s in STRENGTHS}
    numbers = [2**n for n in range(SINGLES.bit_length()) if 2**n <= SINGLES]
    return LeftOut(
        items[0].domain, len(items),
        gradient=float(STEP * sum(gradient.mean(0)[place] for place in places)),
        exact=float(STEP * sum(mean[place] for place in places)),
        alone=sum(alone[STEP]),
        per_sigma={s: float(np.mean(alone[s])) / s for s in STRENGTHS},
        together={n: effect(places[:n], STEP) for n in numbers},
        sums={n: sum(alone[STEP][:n]) for n in numbers},
        far={s: effect(places, s) for s in STRENGTHS},
        common=common_share(gradient), common_exact=common_share(exact),
    )  # fmt: skip


def common_share(gradients: Floats) -> float:
    """The share of |mean|^2 in the mean of |gradient|^2; the square of the mean without bias.

    Args:
        gradients: [items, layers, experts]; each layer's mean over experts does not count.
    """
    centred = gradients - gradients.mean(-1, keepdims=True)
    rows = centred.reshape(len(centred), -1).astype(np.float64)
    squares, n = (rows**2).sum(1), len(rows)
    mean_square = ((rows.sum(0) ** 2).sum() - squares.sum()) / (n * (n - 1))
    return float(mean_square / squares.mean())


def table(rows: Sequence[LeftOut]) -> str:
    """A table in Markdown."""
    lines = [
        "| domain | gradient form | exact form | measured alone | per sigma at "
        + ", ".join(str(s) for s in STRENGTHS)
        + " | together by sum, k = "
        + ", ".join(str(n) for n in rows[0].together)
        + f" | far, k = {SINGLES} | common share, gradient and exact |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    for row in rows:
        ratios = ", ".join(f"{row.together[n] / row.sums[n]:.2f}" for n in row.together)
        far = ", ".join(f"{v / (s / STEP * row.alone):.2f}" for s, v in row.far.items())
        lines.append(
            f"| {row.domain} ({row.items}) | {row.gradient:+.3f} | {row.exact:+.3f} | "
            f"{row.alone:+.3f} | {', '.join(f'{v:+.3f}' for v in row.per_sigma.values())} | "
            f"{ratios} | {far} | {row.common:.1%}, {row.common_exact:.1%} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("model")
@click.option("--suite", default="lab", show_default=True)
@click.option("--domain", "domains", multiple=True, help="Domains; all that can gain by default.")
@click.option("--limit", type=int, help="Items of each task.")
@click.option("--json", "as_json", is_flag=True)
def main(
    model: str, suite: str, domains: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """Print a table, or JSON."""
    rows = left_out(model, suite, domains, limit)
    click.echo(json.dumps([asdict(row) for row in rows]) if as_json else table(rows))


if __name__ == "__main__":
    main()

"""The trial of identification methods, on a model small enough to measure the truth by force.

Of a dense model the experts are neurons, or groups of them: see `causal_effects`.
Each expert in turn is masked, and the loss of each domain is measured: the causal effect. It is
measured the other way round too: each expert in turn is raised by half a sigma, and the domain's
gain is measured. A method is then judged twice: by the rank agreement of its scores with the causal
effects of masking (that with raising is reported beside it), and by what its
experts gain on the test split when they are steered, against random experts of the same layers and
exposure at the same settings. The rule for the winner was fixed before anything was run:

- agreement: Spearman's rank correlation over all (layer, expert), averaged over domains, between
  the scores and the *specific* effect (loss of the domain itself minus mean loss of the others,
  since an expert that every domain needs is no domain expert). The plain effect is reported too.
  Methods of influence read the right answers of the identification split; effects are measured on
  the tuning split, which shares no item with it.
- gain: pooled target score minus that of the arm's matched random experts. The highest wins, if its
  non-targets are non-inferior for every target.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import bootstrap

from ..cards import Variant
from ..errors import UserError
from ..experts import RoutingCounts, get_method
from ..progress import progress_bar
from ..results.cells import read_samples
from ..results.finished import FinishedRun, read_finished
from ..results.pairing import pair_items
from ..runs.arms import PlannedRun
from ..runs.influence import InfluenceTables, influence_tables
from ..runs.job import Job
from ..runs.run import logged, run_job
from ..runs.stages import count_experts
from ..steering import EXPERTS
from .agreement import LEVEL, RESAMPLES, chance_agreement, rank_agreements, specific
from .causal_effects import (
    Force,
    answered_tasks,
    causal_effects,
    group_size,
    method_groups,
    passes,
    unscored_domains,
)
from .single_effects import RAISED_BY

Floats = NDArray[np.float64]


def run_trial(job: Job, console: Console | None = None) -> dict[str, object]:
    """Run the plan's arms, measure the causal effects, judge, and keep all in `trial.json`.

    Args:
        job: a plan whose arms are `METHOD+INTERVENTION` with their `+matched` controls.
        console: the console that shows progress.

    Raises:
        UserError: as `run`.
    """
    with logged(job):
        return _trial(job, console or Console(stderr=True))


def _trial(job: Job, console: Console) -> dict[str, object]:
    check_trial(job)
    answered_tasks(job)  # both before anything is computed
    group_size(job)
    run_job(job, console)
    counts = count_experts(job, lambda _: None)
    methods = [variant.method or "" for variant in job.variants if variant.is_tuned]
    members = method_groups(job, counts, methods)
    what = f"mask and raise each {'expert' if members is None else 'group'} in turn"
    unit = job.engine.identity.sites.kind if members is None else "groups"
    with progress_bar(console, what, passes(job, members), unit) as advance:
        force = causal_effects(job, counts, methods, members, advance)
    influence = _resampled_influence(job, counts)
    agreements, by_raising = (
        rank_agreements(counts, one, job.plan.seed, influence)
        for one in (force.masked, force.raised)
    )
    finished = read_finished(job.folder.root)
    result = _described(job, force) | {
        "methods": [
            {
                "method": name,
                **agreements[name],
                **{f"raised_{key}": value for key, value in by_raising[name].items()},
                **_gains(job, finished, name),
            }
            for name in methods
        ],
    }
    job.folder.write_json(job.folder.root / "trial.json", result)
    return result


def _described(job: Job, force: Force) -> dict[str, object]:
    identity = job.engine.identity
    units = len(identity.layers) * identity.experts
    effects, raised = force.effects
    domains, compared = effects.domains, units
    used = sorted({str(one.intervention) for one in job.variants if one.is_tuned})
    result: dict[str, object] = {
        "plan": job.plan.name,
        "model": job.identity,
        "domains": domains,
        "items": len(effects.domain),
        "experts": units,
        "resamples": RESAMPLES,
        "layers": identity.layers,
        "raised_by": RAISED_BY,
        "interventions": used,
    }
    if unscored := unscored_domains(job):
        result["unscored"] = unscored
    if identity.sites != EXPERTS:
        result["units"] = identity.sites.noun
    if force.members is None:
        result |= {
            "specific": specific(effects.plain()).tolist(),
            "raised_specific": specific(raised.plain()).tolist(),
        }
    else:
        shape = next(iter(force.members.values())).shape
        compared = shape[1]
        result["groups"] = {
            "number": shape[1],
            "size": shape[2],
            "methods": {name: _by_group(force, name) for name in force.members},
        }
    return result | {"chance": chance_agreement(len(domains), compared, job.plan.seed)}


def _by_group(force: Force, method: str) -> list[dict[str, object]]:
    """Return the specific effects of a method's groups for each domain, the best group first."""
    tables = [specific(part[method].effects.plain()) for part in (force.masked, force.raised)]
    return [
        {
            "domain": domain,
            "specific": tables[0][at, at].tolist(),
            "raised_specific": tables[1][at, at].tolist(),
        }
        for at, domain in enumerate(force.effects[0].domains)
    ]


def check_trial(job: PlannedRun) -> None:
    """Refuse arms that a trial cannot judge.

    Raises:
        UserError: an arm's scores cannot be resampled, it has none, or it has no placebo.
    """
    plan = job.plan
    if job.reads_influence and plan.engine != plan.learner:
        raise UserError(
            f"plan {plan.name!r}: a trial resamples the items of influence with the learner, which "
            f"is not loaded any more when {plan.engine} answers; leave influence or the engine out"
        )
    names = {variant.name for variant in job.variants}
    seen = set[str]()
    for variant in job.variants:
        if (fault := _fault(variant, names, seen)) is not None:
            raise UserError(f"plan {plan.name!r}, variant {variant.name!r}: {fault}")
        if variant.is_tuned:
            seen.add(variant.method or "")


def _fault(variant: Variant, names: Container[str], seen: Container[str]) -> str | None:
    if variant.method is not None and get_method(variant.method).router_tuning:
        return (
            f"method {variant.method!r} tunes routers on right answers, which a trial does not "
            "resample; leave it out"
        )
    if variant.kind == "learned":
        return "a learned profile scores no experts, which a trial is about; leave it out"
    if not variant.is_tuned:
        return None
    if variant.kind != "steered" or variant.quantized is not None:
        return "a trial compares METHOD+INTERVENTION on the model itself; leave it out"
    if variant.method in seen:
        return f"method {variant.method!r} is in the plan twice; leave one out"
    if f"{variant.name}+matched" not in names:
        return f"it has no placebo; add the variant {variant.name}+matched"
    return None


def _resampled_influence(job: Job, counts: RoutingCounts) -> InfluenceTables | None:
    """Return the function that resamples the items of influence, whose pass the run stored."""
    if counts.influence is None:
        return None
    tasks, settings = job.identification.tasks, job.plan.identification
    return influence_tables(job.learner, tasks, counts, job.folder.observations, settings)


def _gains(job: Job, result: FinishedRun, method: str) -> dict[str, object]:
    """Return the method's pooled gain on the test split, over base and over its placebo."""
    (name,) = [v.name for v in job.variants if v.is_tuned and v.method == method]
    arms = {target: result.arms[name, target] for target in job.targets}
    cells = {target: arm.cells for target, arm in arms.items()}
    placebo = {target: result.arms[f"{name}+matched", target].cells for target in job.targets}
    base_cells = {row.task: row.cell for row in result.result.base}
    base = {target: base_cells for target in job.targets}  # noqa: C420 - nobody changes it
    return {
        "gain": asdict(_pooled(job, base, cells)),
        "gain_over_placebo": asdict(_pooled(job, placebo, cells)),
        "placebo_gain": asdict(_pooled(job, base, placebo)),
        "non_target_delta": float(np.mean([arm.non_target_result.delta for arm in arms.values()])),
        "non_inferior": all(arm.non_targets.non_inferiority.non_inferior for arm in arms.values()),
        "settings": {
            target: None if arm.settings is None else arm.settings.model_dump(mode="json")
            for target, arm in arms.items()
        },
    }


@dataclass(frozen=True, slots=True)
class PooledGain:
    """The difference of target scores, all targets pooled; the interval resamples questions.

    A question is in several targets with another gold answer in each, so it is the unit.
    """

    delta: float
    ci95: tuple[float, float]
    questions: int
    items: int


def _pooled(
    job: Job, one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]
) -> PooledGain:
    """Compare `other` with `one`, each the cell ids by target and task."""
    by_question: dict[str, list[float]] = {}
    for target in job.targets:
        task = job.suite.target_task(target).name
        rows = [read_samples(job.folder, cells[target][task]) for cells in (one, other)]
        both = pair_items(rows[0], rows[1], task)
        for question, change in zip(
            both["question_a"], both["score_b"] - both["score_a"], strict=True
        ):
            by_question.setdefault(question, []).append(float(change))
    return pooled_gain(list(by_question.values()), job.plan.seed)


def pooled_gain(by_question: list[list[float]], seed: int) -> PooledGain:
    """Return the mean difference, with a 95 % bias-corrected bootstrap interval over questions."""
    sums = np.array([sum(values) for values in by_question])
    sizes = np.array([len(values) for values in by_question])
    delta = float(sums.sum() / sizes.sum())
    if (sums == delta * sizes).all():  # nothing varies, so there is nothing to resample
        return PooledGain(delta, (delta, delta), len(sums), int(sizes.sum()))
    found = bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True, n_resamples=4_999, confidence_level=LEVEL,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return PooledGain(delta, (float(found.low), float(found.high)), len(sums), int(sizes.sum()))

"""The effects by force with which a trial compares methods: of experts, or of groups of neurons.

Experts are masked and raised one by one. A dense model has too many neurons for that, so each
method's ranking of them is cut into groups of as many as it selects: the best, the last, and others
at even distances between them. A group is masked and raised as one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..experts import RoutingCounts, get_method
from ..runs.job import Job
from ..steering import EXPERTS, Intervention
from ..tasks.language_model import LanguageModel
from ..tasks.loading import LoadedTask
from ..variants import sigmas_of
from .agreement import CausalEffects, MethodEffects
from .single_effects import MASK, group_effects, raise_units

Floats = NDArray[np.float64]
Members = Mapping[str, NDArray[np.int64]]
"""Method -> [domains, groups, size]; see `MethodEffects`."""
MOST_SINGLE = 1000
"""The most neurons, or blocks of them, that are masked and raised one by one."""
GROUPS = 12
"""The number of groups into which a method's ranking is cut for each domain."""
FEWEST_GROUPS = 4
"""With fewer groups a rank correlation says nothing."""


@dataclass(frozen=True, slots=True)
class Force:
    """What was measured by force.

    Attributes:
        masked: method -> the fall of outcomes by masking.
        raised: method -> their rise by raising.
        members: the groups, by method; None: experts one by one.
    """

    masked: Mapping[str, MethodEffects]
    raised: Mapping[str, MethodEffects]
    members: Members | None

    @property
    def effects(self) -> tuple[CausalEffects, CausalEffects]:
        """The effects of masking and raising; without groups those of all methods."""
        one, other = (next(iter(part.values())) for part in (self.masked, self.raised))
        return one.effects, other.effects


def rank_groups(scores: Floats, size: int, groups: int) -> NDArray[np.int64]:
    """Split a ranking into groups at even distances, the best and the last among them.

    Args:
        scores: [units].
        size: the number of units of a group.
        groups: the number of groups; fewer where they would share units.

    Returns:
        [groups, size] indices, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    count = min(groups, len(scores) // size)
    starts = np.linspace(0, len(scores) - size, count).astype(np.int64)
    chosen: NDArray[np.int64] = order[starts[:, None] + np.arange(size)]
    return chosen


def group_size(job: Job) -> int | None:
    """Return the number of neurons of a group, the fewest that arms select; None: no groups.

    Raises:
        UserError: with as many neurons as the plan selects there are too few groups.
    """
    identity = job.engine.identity
    units = len(identity.layers) * identity.experts
    if identity.sites == EXPERTS or units <= MOST_SINGLE:
        return None
    sizes = () if job.plan.tuning is None else job.plan.tuning.expert_counts
    size = min(sizes or (max(1, units // 100),))
    if units < FEWEST_GROUPS * size:
        raise UserError(
            f"plan {job.plan.name!r}: a trial compares groups of as many neurons as are selected, "
            f"and {size:,} of {units:,} leave fewer than {FEWEST_GROUPS} groups; give smaller "
            "expert_counts"
        )
    return size


def method_groups(job: Job, counts: RoutingCounts, methods: Sequence[str]) -> Members | None:
    """Return the groups of each method's ranking for each domain; None: units are taken singly.

    Raises:
        UserError: as `group_size`.
    """
    size = group_size(job)
    if size is None:
        return None
    return {
        name: np.stack(
            [
                rank_groups(get_method(name).score(counts, domain).ravel(), size, GROUPS)
                for domain in domains_of(job)
            ]
        )
        for name in methods
    }


def answered_tasks(job: Job) -> list[LoadedTask]:
    """Return the tasks on which effects are measured: the tuning split's non-targets.

    Domains without identification text have no scores to compare, and are left out; see
    `unscored_domains`. (The test split is for steering alone; the targets' questions are ambiguous,
    and so have no answer to lose.)

    Raises:
        UserError: a non-target task has no tuning items.
    """
    names = [card.name for card in job.suite.tasks if "non-target" in card.roles]
    if missing := [name for name in names if name not in job.tuning]:
        raise UserError(
            f"plan {job.plan.name!r}: a trial needs the tuning items of every non-target task, and "
            f"{', '.join(missing)} has none here; leave out `targets`, or give it a tuning split"
        )
    scored = job.identification.domains
    return [job.tuning[name] for name in names if job.tuning[name].card.domain in scored]


def unscored_domains(job: Job) -> tuple[str, ...]:
    """Return the non-targets' domains that have no identification text."""
    domains = [card.domain for card in job.suite.tasks if "non-target" in card.roles]
    return tuple(one for one in dict.fromkeys(domains) if one not in job.identification.domains)


def domains_of(job: Job) -> tuple[str, ...]:
    """Return the domains on whose answers effects are measured."""
    return tuple(dict.fromkeys(task.card.domain for task in answered_tasks(job)))


def passes(job: Job, members: Members | None) -> int:
    """Count the experts or groups that are steered in turn, each of both ways."""
    if members is None:
        return 2 * len(job.engine.identity.layers) * job.engine.identity.experts
    return 2 * sum(int(one.shape[0]) * int(one.shape[1]) for one in members.values())


def causal_effects(
    job: Job,
    counts: RoutingCounts,
    methods: Sequence[str],
    members: Members | None,
    advance: Callable[[int], None],
) -> Force:
    """Mask each expert or group in turn, and raise each; return both effects.

    What was measured is kept in the run's folder.

    Args:
        job: the job.
        counts: the counts of identification text, with the spread of logits.
        methods: the names of the methods.
        members: the groups; see `method_groups`.
        advance: called with the number of experts or groups done.

    Raises:
        UserError: a non-target task has no tuning items.
    """
    path, tasks = job.folder.root / "causal.npz", answered_tasks(job)
    domains = domains_of(job)
    owner = np.array([domains.index(task.card.domain) for task in tasks for _ in task.items])
    wanted = [""] if members is None else [f".{name}" for name in members]
    kept = np.load(io.BytesIO(job.folder.read(path))) if job.folder.has(path) else {}
    if any(f"gain{name}" not in kept for name in wanted):  # also of a trial that only masked
        pairs = [pair for task in tasks for pair in task.answers()]
        measured = _measured(job, pairs, _changes(job, counts), members, advance)
        content = io.BytesIO()
        np.savez(content, **measured)  # type: ignore[arg-type]  # NumPy's stubs: `allow_pickle`
        job.folder.write(path, content.getvalue())
        kept = measured
    else:
        advance(passes(job, members))
    parts = []
    for way in ("loss", "gain"):
        found = {name: CausalEffects(domains, owner, kept[f"{way}{name}"]) for name in wanted}
        parts.append(
            {name: MethodEffects(found[""]) for name in methods}
            if members is None
            else {name: MethodEffects(found[f".{name}"], members[name]) for name in methods}
        )
    return Force(parts[0], parts[1], members)


def _changes(job: Job, counts: RoutingCounts) -> tuple[Intervention, Intervention]:
    sites = job.engine.identity.sites
    return MASK, raise_units(sites, sigmas_of(counts) if sites == EXPERTS else None)


def _measured(
    job: Job,
    pairs: list[tuple[str, str]],
    changes: tuple[Intervention, Intervention],
    members: Members | None,
    advance: Callable[[int], None],
) -> dict[str, Floats]:
    """Return the loss by masking and the gain by raising of experts, [layers, experts, items].

    With groups those of each method, [domains, groups, items].
    """
    identity = job.engine.identity
    units = list(product(identity.layers, range(identity.experts)))

    def outcomes() -> Floats:
        return gold_log_probabilities(job.lm, pairs)

    before, found = outcomes(), dict[str, Floats]()
    shape = (len(identity.layers), identity.experts, 1)
    single = {"": np.arange(len(units)).reshape(shape)}
    grouped = single if members is None else {f".{name}": one for name, one in members.items()}
    for (way, sign), change in zip((("loss", -1), ("gain", 1)), changes, strict=True):
        for name, at in grouped.items():
            groups = [[units[one] for one in group] for group in at.reshape(-1, at.shape[-1])]
            effect = group_effects(job.engine, change, groups, outcomes, before, advance)
            found[f"{way}{name}"] = sign * effect.reshape(*at.shape[:-1], -1)
    return found


def gold_log_probabilities(lm: LanguageModel, pairs: list[tuple[str, str]]) -> Floats:
    """Return the log-probability of each continuation given its prompt, in nats: [pairs]."""
    return np.array([value for value, _ in lm.log_likelihoods(pairs)])

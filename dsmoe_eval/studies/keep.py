"""Keep-k curves: what a domain's answers lose when each layer keeps only its k best experts.

This is the figure of EMO (arXiv 2605.06663): the score against the share of experts kept, domain by
domain. Experts are ranked on the identification text, by several methods, and the answers are those
of the test split. The control keeps as many random experts of each layer. Nothing is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from ..cards import Identification, Suite
from ..engines.base import Advance, Engine
from ..engines.lm import EngineLM
from ..errors import UserError
from ..experts import (
    RoutingCounts,
    exposure_kept,
    get_method,
    pruned_experts,
    randomly_pruned,
)
from ..models.pruning import choice_groups
from ..progress import Steps, counted_as, progress_bar
from ..registry import load_suite
from ..runs.guards import guard_model
from ..runs.identification import count_domains, identification_source
from ..runs.specification import IdentificationSpec
from ..steering import ChosenExpert, Intervention, Profile
from ..tasks.identification import IdentificationText, identification_text
from ..tasks.leakage import check_leakage, find_leakage
from ..tasks.loading import LoadedTask, check_context_length, load_tasks, without
from ..tasks.outcomes import gold_logprobs
from ..tasks.scoring import ScoredAnswer, answer_tasks, item_scores, judge
from .keep_rows import (
    ALL,
    RANDOM,
    Answered,
    Floats,
    KeepResult,
    KeepRow,
    Kept,
    OutcomeKind,
    base_row,
    keep_row,
    pooled,
)


@dataclass(frozen=True, slots=True)
class KeepGrid:
    """What is kept, by which methods, and what is answered.

    Attributes:
        methods: names of methods.
        shares: the shares of each layer's experts that are kept, between 0 and 1.
        draws: the number of draws of the control.
        role: the role of the tasks that are answered.
        domains: the domains; none: all that have such a task and identification text.
        items: the most items of a task; None: all.
        seed: the seed of the draws.
    """

    methods: tuple[str, ...]
    shares: tuple[float, ...]
    draws: int = 3
    role: Literal["target", "non-target"] = "target"
    domains: tuple[str, ...] = ()
    items: int | None = None
    seed: int = 0


_Domains = dict[str, Answered]
"""Domain -> what was answered; `ALL` is added."""


def keep_curves(
    engine: Engine,
    suite: str,
    grid: KeepGrid,
    *,
    data: Sequence[Path] = (),
    root: Path | None = None,
    console: Console | None = None,
) -> KeepResult:
    """Answer each domain's questions by models that keep a share of the experts of each layer.

    Args:
        engine: the model's engine, which records the routing and answers.
        suite: a suite's name or path.
        grid: what is kept, and what is answered.
        data: folders of data sets; if empty, they come from the hub.
        root: the folder in which passes are stored.
        console: the console that shows progress; by default stderr.

    Returns:
        The content of `keep.json`.

    Raises:
        UserError: an unknown suite, method or domain, or a share that cannot be kept.
    """
    study = _Study.opened(engine, load_suite(suite), suite, grid, data)
    shown, root = console or Console(stderr=True), root or Path("out") / "observations"
    texts = sum(len(task.items) for task in study.text.tasks.values())
    with progress_bar(shown, "identify experts", texts, "texts") as advance:
        counts = study.count(root, advance)
    numbers = kept_numbers(grid.shares, counts.experts, counts.top_k, study.groups)
    answers = sum(task.answers_asked for task in study.tasks.values())
    models = 1 + len(numbers) * (len(grid.methods) + grid.draws)
    with progress_bar(shown, "answer test items", models * answers, "answers") as steps:
        base = study.answer(None, steps)
        rows = [row for kept in numbers for row in _rows(study, counts, base, kept, steps)]
    identity = engine.identity
    return {
        "model": identity.name,
        "fingerprint": identity.fingerprint,
        "dtype": engine.dtype,
        "device": engine.device,
        "suite": study.suite.name,
        "role": grid.role,
        "items": grid.items,
        "seed": grid.seed,
        "layers": list(identity.layers),
        "experts": identity.experts,
        "top_k": counts.top_k,
        "methods": list(grid.methods),
        "draws": grid.draws,
        "left_out": list(study.left_out),
        "spared": [list(one) for one in counts.spared],
        "base": [base_row(domain, found) for domain, found in base.items()],
        "rows": rows,
    }


def kept_numbers(
    shares: Sequence[float], experts: int, top_k: int, groups: int = 1
) -> tuple[int, ...]:
    """Return the numbers of experts per layer nearest to shares, most first; all of them is none.

    Raises:
        UserError: a share is too small for a token's experts.
    """
    numbers = {share: groups * round(share * experts / groups) for share in shares}
    for share, number in numbers.items():
        if number < top_k:
            raise UserError(
                f"--keep {100 * share:g}: {number} of {experts} experts are fewer than the {top_k} "
                "that every token needs; keep more"
            )
    return tuple(sorted({one for one in numbers.values() if one < experts}, reverse=True))


@dataclass(frozen=True, slots=True)
class _Study:
    """A model with the tasks that it answers and the text by which experts are ranked."""

    engine: Engine
    suite: Suite
    grid: KeepGrid
    text: IdentificationText
    tasks: Mapping[str, LoadedTask]
    left_out: tuple[str, ...]
    lm: EngineLM
    groups: int

    @classmethod
    def opened(
        cls, engine: Engine, suite: Suite, name: str, grid: KeepGrid, data: Sequence[Path]
    ) -> _Study:
        """Load the tasks and the text, and check that they share no item."""
        text = identification_text(name, None, data)
        asked = [task for task in suite.tasks if grid.role in task.roles]
        if unknown := set(grid.domains) - {task.domain for task in asked}:
            raise UserError(
                f"suite {suite.name!r} has no {grid.role} task of {', '.join(sorted(unknown))}; "
                f"domains: {', '.join(dict.fromkeys(task.domain for task in asked))}"
            )
        asked = [task for task in asked if not grid.domains or task.domain in grid.domains]
        cards = [task for task in asked if task.domain in text.domains]
        if not cards:
            raise UserError(f"suite {suite.name!r}: no {grid.role} task has identification text")
        tasks = _apart(suite, load_tasks(suite, cards, "test", grid.items, data), text)
        lm = engine.language_model(seed=grid.seed)
        for task in tasks.values():
            check_context_length(task, lm)
        left_out = tuple(task.name for task in asked if task not in cards)
        groups = choice_groups(engine.identity.name)
        return cls(engine, suite, grid, text, tasks, left_out, lm, groups)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that are answered."""
        return tuple(dict.fromkeys(task.card.domain for task in self.tasks.values()))

    def count(self, root: Path, advance: Advance) -> RoutingCounts:
        """Count the routing of the identification text; super experts are kept first."""
        try:
            methods = [get_method(name) for name in self.grid.methods]
        except ValueError as error:
            raise UserError(str(error)) from error
        if any(method.influence for method in methods):
            raise UserError("methods of influence read right answers; leave them out of --methods")
        wanted = IdentificationSpec.by(methods, Identification(), self.suite.markers)
        counts = count_domains(self.engine, self.text.tasks, wanted, root, advance)
        guard = guard_model(self.engine, self.text.tasks, Identification(), root)
        return replace(counts, spared=guard.pairs)

    def profile(self, method: str, domain: str, removed: tuple[ChosenExpert, ...]) -> Profile:
        """Return the profile that masks experts."""
        return Profile(
            model=self.engine.identity,
            method=method,
            experts=removed,
            intervention=Intervention(kind="mask", strength=1.0),
            source=identification_source(self.text, domain, Identification(), self.engine.name),
        )

    def answer(self, profile: Profile | None, steps: Steps, domain: str | None = None) -> _Domains:
        """Answer the tasks of a domain, or of all, by the model as a profile makes it."""
        tasks = [one for one in self.tasks.values() if domain in (None, one.card.domain)]
        answers = sum(task.answers_asked for task in tasks)
        with counted_as(steps, answers, sum(task.requests_asked for task in tasks)) as advance:
            if profile is None:
                given = answer_tasks(self.lm, tasks, advance=advance)
            else:
                with self.engine.steer(profile):
                    given = answer_tasks(self.lm, tasks, advance=advance)
        judged = {task.card.name: judge(task, one) for task, one in zip(tasks, given, strict=True)}
        names = dict.fromkeys(task.card.domain for task in tasks)
        found = {
            name: pooled(
                [_of(one, judged[one.card.name]) for one in tasks if one.card.domain == name]
            )
            for name in names
        }
        return found if domain is not None else found | {ALL: pooled([*found.values()])}


def _apart(
    suite: Suite, tasks: Mapping[str, LoadedTask], text: IdentificationText
) -> dict[str, LoadedTask]:
    """Return the tasks without items of the identification text, as `load_splits` leaves them out.

    Raises:
        UserError: they share items, and the splits are not buckets that this program draws.
    """
    splits = {"identification": text.tasks, "test": tasks}
    shared = {one.name for one in suite.tasks if suite.is_shared(one.name)}
    repeated: dict[str, set[str]] = {}
    for one in find_leakage(splits).overlaps:
        if {one.task, one.other_task} <= shared:
            repeated.setdefault(one.task, set()).add(one.item)
    apart = {
        name: without(task, repeated[name]) if name in repeated else task
        for name, task in tasks.items()
    }
    check_leakage({"identification": text.tasks, "test": apart})
    return apart


def _of(task: LoadedTask, judged: Sequence[Sequence[ScoredAnswer]]) -> Answered:
    clusters = tuple(item.cluster for item in task.items)
    outcomes: dict[OutcomeKind, Floats] = {"score": item_scores(judged)}
    gold = gold_logprobs(task, judged)
    if None not in gold:
        outcomes["gold_logprob"] = np.array(gold, dtype=np.float64)
    return Answered(outcomes, dict.fromkeys(outcomes, clusters))


def _rows(
    study: _Study, counts: RoutingCounts, base: _Domains, kept: int, steps: Steps
) -> list[KeepRow]:
    """Answer by the models that keep a number of experts: of each method, and of the control."""
    control = _control(study, counts, kept, steps)
    rows = [keep_row(domain, control[domain], base[domain], None) for domain in base]
    for name in study.grid.methods:
        models = _ranked(study, counts, name, kept, steps)
        rows += [keep_row(one, models[one], base[one], control[one]) for one in base]
    return rows


def _control(study: _Study, counts: RoutingCounts, kept: int, steps: Steps) -> dict[str, Kept]:
    """Answer all domains by each draw of random experts."""
    drawn, shares = [], []
    for draw in range(1, study.grid.draws + 1):
        removed = randomly_pruned(counts, kept, study.grid.seed, draw, study.groups)
        profile = study.profile(f"{RANDOM}, draw {draw}", study.domains[0], removed)
        drawn.append(study.answer(profile, steps))
        shares.append(exposure_kept(counts, removed))
    exposure = float(np.mean(shares))
    return {
        domain: Kept(
            RANDOM, kept, kept / counts.experts, exposure, tuple(one[domain] for one in drawn)
        )
        for domain in drawn[0]
    }


def _ranked(
    study: _Study, counts: RoutingCounts, name: str, kept: int, steps: Steps
) -> dict[str, Kept]:
    """Answer each domain by the experts that a method ranks highest for it."""
    answered: _Domains = {}
    exposures = {}
    for domain in study.domains:
        try:
            removed = pruned_experts(get_method(name), counts, domain, kept, study.groups)
        except ValueError as error:
            raise UserError(f"method {name!r}, domain {domain!r}: {error}") from error
        profile = study.profile(f"{name}, keep {kept}", domain, removed)
        answered |= study.answer(profile, steps, domain)
        exposures[domain] = exposure_kept(counts, removed)
    exposures[ALL] = float(np.mean([*exposures.values()]))
    answered[ALL] = pooled([*answered.values()])
    return {
        domain: Kept(name, kept, kept / counts.experts, exposures[domain], (found,))
        for domain, found in answered.items()
    }

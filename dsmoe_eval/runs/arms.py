"""A plan with all that it names: its suite, its variants, and the arms that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cards import Plan, ResidualTuning, Suite, Variant
from ..experts import Method, get_method
from ..registry import load_suite
from ..results.terms import NOTHING, Information
from ..steering import Profile
from ..variants import Settings, planned_variant, unquantized_arm, with_controls
from .plan_checks import check_plan


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """A variant for a target, and what follows for it from plan and suite.

    Attributes:
        variant: the variant, steered or fine-tuned.
        target: the domain that the variant is meant to improve.
        tasks: the names of the tasks that the arm answers; the target's is the first.
        domain: the domain whose experts are steered, in a steered variant: the target or another.
        grid: the settings that tuning tries; none for controls and fine-tuned variants.
        control_of: the arm whose tuned settings a control, or an arm on a quantized model, takes.
        preamble: the line before each prompt that names a domain; None: no such line.
    """

    variant: Variant
    target: str
    tasks: tuple[str, ...]
    domain: str
    grid: tuple[Settings, ...] = ()
    control_of: PlannedArm | None = None
    preamble: str | None = None

    @property
    def name(self) -> str:
        """The variant and the target, for messages and file names."""
        return f"{self.variant.name}-{self.target}"

    @property
    def tuned(self) -> PlannedArm:
        """The arm that is tuned: this one, or the one that it controls."""
        return self.control_of or self


@dataclass(frozen=True, slots=True)
class PreparedArm:
    """A planned arm with its settings fixed and its profile or adapters made.

    Attributes:
        adapter: the hash of the trained weights, or the form of a quantized model.
    """

    planned: PlannedArm
    settings: Mapping[str, object] | None = None
    profile: Profile | None = None
    adapter: str | None = None
    information: Information = NOTHING


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A plan with all that it names, checked before anything is loaded.

    Attributes:
        plan: the plan, with the options of the run applied.
        suite: the suite that the plan names.
        targets: the domains that are steered for.
        variants: all variants, base among them, in the order of the plan.
        arms: every variant but base for every target, target by target.
        base_tasks: the names of the tasks that some arm answers, in the order of the suite.
    """

    plan: Plan
    suite: Suite
    targets: tuple[str, ...]
    variants: tuple[Variant, ...]
    arms: tuple[PlannedArm, ...]
    base_tasks: tuple[str, ...]

    @property
    def read_targets(self) -> tuple[str, ...]:
        """The domains whose answers are read: others than the targets by controls of `learned`."""
        learned = {one.expert_source for one in self.variants if one.kind == "learned"}
        return self.suite.targets if learned & {"other_domain", "all_domains"} else self.targets

    @property
    def reads_answers(self) -> bool:
        """Whether a method, a learned profile or `foretell` reads answers of identification."""
        learned = any(one.kind == "learned" for one in self.variants)
        answered = learned or any(one.reads_answers for one in self._methods)
        return answered or self.plan.foretell

    @property
    def reads_influence(self) -> bool:
        """Whether a method scores experts by their influence."""
        return any(one.influence for one in self._methods)

    @property
    def _methods(self) -> list[Method]:
        names = dict.fromkeys(one.method for one in self.variants if one.method is not None)
        return [get_method(name) for name in names]


def plan_run(plan: Plan, path: Path) -> PlannedRun:
    """Load the suite and the variants that a plan names, check the plan, and build its arms.

    Files that the plan names are searched near `path`, the file of the plan.

    Raises:
        UserError: a name does not exist, or does not fit the rest of the plan.
    """
    suite = load_suite(plan.suite, beside=path)
    named = tuple(planned_variant(name, path) for name in plan.variants)
    variants = with_controls(named, plan.controls, plan.placebo_draws)
    targets = plan.targets or suite.targets
    check_plan(plan, suite, variants, targets)
    arms = plan_arms(plan, suite, variants, targets)
    asked = tuple(task.name for task in suite.answered_tasks(arm.target for arm in arms))
    return PlannedRun(plan, suite, targets, variants, arms, asked)


def plan_arms(
    plan: Plan, suite: Suite, variants: Sequence[Variant], targets: Sequence[str]
) -> tuple[PlannedArm, ...]:
    """Return every arm that is compared with base, target by target in the order of the plan.

    Args:
        plan: the plan, with the grid of settings.
        suite: the suite, with the tasks.
        variants: the variants of the plan, base among them, which `check_plan` has accepted.
        targets: the domains, a subset of the suite's targets.
    """
    return tuple(arm for target in targets for arm in _arms_of(plan, suite, variants, target))


def _arms_of(
    plan: Plan, suite: Suite, variants: Sequence[Variant], target: str
) -> list[PlannedArm]:
    tasks = tuple(task.name for task in suite.tasks_for(target))
    another = suite.targets[(suite.targets.index(target) + 1) % len(suite.targets)]

    def arm(variant: Variant, leading: PlannedArm | None) -> PlannedArm:
        domain = another if variant.expert_source == "other_domain" else target
        line = _preamble(plan, suite, domain) if variant.kind == "prompt" else None
        grid = _grid(plan, variant) if leading is None else ()
        return PlannedArm(variant, target, tasks, domain, grid, leading, line)

    leading: dict[str, PlannedArm] = {}
    for one in sorted(variants, key=lambda one: one.quantized is not None):
        if one.takes_controls:
            leading[one.name] = arm(one, leading.get(unquantized_arm(one)))

    def tuned(variant: Variant) -> PlannedArm | None:
        found = leading.get(variant.control_of or "")
        return None if found is None else found.tuned

    return [leading.get(one.name) or arm(one, tuned(one)) for one in variants if not one.is_base]


def _preamble(plan: Plan, suite: Suite, domain: str) -> str:
    """Return the line that names a domain before a question."""
    spelled = domain.replace("_", " ").replace("-", " ")
    return plan.domain_lines.get(domain) or suite.domain_line.replace("{domain}", spelled)


def _grid(plan: Plan, variant: Variant) -> tuple[Settings, ...]:
    if not variant.is_tuned or plan.tuning is None:
        return ()
    if variant.kind == "residual":
        return _vector_grid(plan.tuning.residual)
    if variant.intervention is None or variant.intervention == "prune":
        return ()
    unit, strengths = plan.tuning.of(variant.intervention) or ("odds", ())
    return tuple(Settings(size, s, unit) for size in plan.tuning.expert_counts for s in strengths)


def _vector_grid(tuning: ResidualTuning | None) -> tuple[Settings, ...]:
    if tuning is None:
        return ()
    depths = [one if isinstance(one, tuple) else (one,) for one in tuning.depths]
    return tuple(Settings(0, s, depths=each) for each in depths for s in tuning.strengths)

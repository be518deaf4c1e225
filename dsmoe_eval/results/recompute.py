"""A finished run's result, computed again from the answers in its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..cards import Plan, Suite
from ..cards.suites import Role, Task
from ..errors import UserError
from ..tasks.leakage import Leakage, Overlap
from ..variants import BASE, get_variant
from .cells import read_cell, read_samples
from .finished import read_finished, sound
from .folder import RunFolder
from .other_arms import ArmCells
from .outcome_comparisons import compare_run
from .schema import Arm, Model, RunResult

_SHARED = ("model", "fingerprint", "dtype", "device", "experts_implementation", "engine")
"""The fields of a run's identity that each of its cells repeats."""


def recompute(folder: RunFolder) -> RunResult:
    """Compute the content of a run's `comparisons.json` again, from the samples of its cells.

    Plan, model and engine are those of `run.json`. Of `comparisons.json` itself only that is used
    which no sample says: which cells belong to which arm, the arms' settings and information, the
    suite's tasks and roles, and the outcome of the check for leakage.

    Raises:
        UserError: the run is not finished, or of another version; a file is not what the run wrote;
            or an arm's cells are not those that its comparisons need.
    """
    stated, about = read_finished(folder.root).result, folder.read_json(folder.identity)
    suite = _suite(folder, stated)
    for arm in stated.arms:
        _check_tasks(folder, suite, arm)
    with sound(str(folder.identity)):
        plan = Plan.model_validate(about["plan"])
        result = compare_run(
            folder,
            plan,
            suite,
            {row.task: row.cell for row in stated.base} | _base_texts(stated),
            [_cells(arm) for arm in stated.arms],
            {name: about[name] for name in Model.model_fields},
            _leakage(stated),
        )
    names = ("suite_targets", "suite_tasks")
    return result.model_copy(update={name: getattr(stated, name) for name in names})


def _suite(folder: RunFolder, stated: RunResult) -> Suite:
    """Return the suite as far as comparisons need it: the tasks that were answered."""
    domains = {row.task: _domain(folder, row.cell) for row in stated.base}
    others = {task for arm in stated.arms for task in arm.cells if domains.get(task) != arm.target}
    roles: dict[str, tuple[Role, ...]] = {
        row.task: (row.role, "non-target") if row.task in others else (row.role,)
        for row in stated.base
    }
    texts = _base_texts(stated)
    domains |= {task: _domain(folder, cell) for task, cell in texts.items()}
    roles |= dict.fromkeys(texts, ("text",))
    tasks = (Task.model_construct(name=t, domain=domains[t], roles=roles[t]) for t in domains)
    return Suite.model_construct(name=stated.suite, tasks=tuple(tasks))


def _base_texts(stated: RunResult) -> dict[str, str]:
    """Return base's cell of each task of texts."""
    return {task: both[0] for arm in stated.arms for task, both in arm.text_cells.items()}


def _domain(folder: RunFolder, cell: str) -> str:
    domains = set(read_samples(folder, cell, columns=("domain",))["domain"])
    if len(domains) != 1:
        raise UserError(
            f"{folder.cell(cell) / 'samples.parquet'}: has items of {len(domains)} domains, where "
            "a task has one; restore it, or run again"
        )
    return str(domains.pop())


def _check_tasks(folder: RunFolder, suite: Suite, arm: Arm) -> None:
    targets = {t.name for t in suite.tasks if t.domain == arm.target and "target" in t.roles}
    needed = targets | {task.name for task in suite.non_target_tasks(arm.target)}
    if len(targets) != 1 or needed != set(arm.cells):
        raise UserError(
            f"{folder.comparisons}: the arm {arm.variant} on {arm.target} has cells of "
            f"{', '.join(sorted(arm.cells))}, and its comparisons need {', '.join(sorted(needed))}"
            "; run it again"
        )


def _cells(arm: Arm) -> ArmCells:
    settings = None if arm.settings is None else arm.settings.model_dump()
    return ArmCells(
        get_variant(arm.variant),
        arm.target,
        settings,
        arm.profile,
        arm.cells | {task: own for task, (_, own) in arm.text_cells.items()},
        arm.information,
    )


def _leakage(stated: RunResult) -> Leakage:
    own = stated.leakage
    overlaps = (Overlap(**row.model_dump(), question="") for row in own.items)
    return Leakage({row.split: row.items for row in own.checked}, tuple(overlaps), own.allowed_by)


def cell_faults(folder: RunFolder, result: RunResult) -> Iterator[tuple[str, str, object, object]]:
    """Yield where a cell's identity, whose hash names it, is not of the arm that it is given to.

    Yields:
        The variant, the path of the fault, and the value by the result and by the cell.
    """
    about = folder.read_json(folder.identity)
    shared = {name: about[name] for name in _SHARED} | {"seed": result.seed}
    for task, cell in ({row.task: row.cell for row in result.base} | _base_texts(result)).items():
        own = {"variant": BASE, "target": None, "task": task, "profile": None}
        for name, stated, found in _unlike(folder, cell, own | shared):
            yield BASE, f"base[{task}].cell: {name}", stated, found
    for arm in result.arms:
        for task, cell in _cells(arm).cells.items():
            own = {"variant": arm.variant, "target": arm.target, "task": task}
            expected = own | {"profile": arm.profile} | shared
            for name, stated, found in _unlike(folder, cell, expected):
                yield arm.variant, f"arms[{arm.target}].cells[{task}]: {name}", stated, found


def _unlike(
    folder: RunFolder, cell: str, expected: Mapping[str, object]
) -> Iterator[tuple[str, object, object]]:
    """Yield name, expected and actual value of each field of a cell's identity that differs."""
    identity = read_cell(folder, cell)["identity"]
    for name, value in expected.items():
        if identity.get(name) != value:
            yield name, value, identity.get(name)

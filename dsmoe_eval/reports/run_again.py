"""How to run a plan again, and how to cite what came out."""

from __future__ import annotations

import shlex

from ..registry import builtin_folder, builtin_names, load_plan
from ..results import RunFolder
from ..results.schema import RunResult


def run_again(folder: RunFolder, result: RunResult) -> tuple[str, str]:
    """Return the command that runs the same again, and a remark, which may be empty.

    A plan that is not built in, or was another one than the built-in plan of its name, is named by
    the `plan.yaml` that the run's folder holds.

    Raises:
        UserError: the run's plan or `run.json` cannot be read.
    """
    options = shlex.join(_options(folder, result))
    builtin = builtin_folder() / "plans" / f"{result.plan}.yaml"
    if builtin.is_file() and builtin.read_bytes() == folder.read(folder.plan):
        return f"dsmoe-eval run {result.plan} {options}".rstrip(), ""
    remark = "plan.yaml is in the run's folder: the plan is not built in."
    beside = _beside(folder, result)
    if beside:
        remark += f" Put it where the plan was, for it names what is there: {', '.join(beside)}."
    return f"dsmoe-eval run plan.yaml {options}".rstrip(), remark


def citation(folder: RunFolder, result: RunResult) -> str:
    """Return one line for a paper, by which the model, the plan and the files are known again."""
    smoke = f", limited to {result.run.limit} items per task" if result.smoke_test else ""
    return (
        f"dsmoe-eval {result.run.versions.get('dsmoe-eval', 'of an unknown version')}, plan "
        f"{result.plan} on suite {result.suite}, seed {result.seed}{smoke}; model "
        f"{result.run.model}, fingerprint {result.run.fingerprint}; SHA-256 root hash of the "
        f"run's files {folder.root_hash}."
    )


def _options(folder: RunFolder, result: RunResult) -> list[str]:
    """Return the options of the run that its plan does not say."""
    plan, _ = load_plan(str(folder.plan))
    model = folder.read_json(folder.identity)["plan"]["model"]
    options = [] if model == plan.named_model else ["--model", model]
    if result.seed != plan.seed:
        options += ["--seed", str(result.seed)]
    if result.run.limit is not None:
        options += ["--limit", str(result.run.limit)]
    return options


def _beside(folder: RunFolder, result: RunResult) -> list[str]:
    """Return the suite and the variants of the user."""
    suite = [] if result.suite in builtin_names("suites") else [f"suite {result.suite}"]
    variants = [
        variant["name"] for variant in folder.read_json(folder.identity).get("own_variants", ())
    ]
    return suite + [f"variant {name}" for name in variants]

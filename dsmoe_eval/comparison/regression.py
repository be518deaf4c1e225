"""Two finished runs of one plan, on an old and a new checkpoint: did steering still work?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..cards import OUTCOMES, Plan
from ..errors import UserError
from ..results.cells import read_cell
from ..results.finished import FinishedRun, Key, sound
from ..results.folder import RunFolder
from ..results.gains import GainChange, Part, gain_changes, primary_claim
from ..results.regression import (
    REGRESSION_VERSION,
    ArmRegression,
    GainDifference,
    RegressionResult,
    RoutingAgreement,
    SharedExperts,
    Side,
)
from ..runs.agreement import UnlikeRoutingError
from ..runs.overlaps import shared_experts
from ..runs.profiles import experts_profile
from ..stats import POINTS, Unit, claim
from ..storage import shown
from .routing_agreement import routing_agreement

_OF_MODEL = {"model", "models", "revision", "name", "description"}
"""The keys of a plan in which the runs of two models may differ."""
_NOTED = {"dtype", "device", "engine_settings", "experts_implementation"}


def compare_checkpoints(old: FinishedRun, new: FinishedRun) -> RegressionResult:
    """Compare the gains of every arm on the new model with those on the old one, item by item.

    Args:
        old: a run of a plan on the earlier model.
        new: a run of the same plan on the later model.

    Raises:
        UserError: the runs are not of the same suite, items, seed and settings, lack their cells,
            or have no arm but controls.
    """
    folders, plan = (_folder(old), _folder(new)), _plan(old)
    _check_alike(old, new)
    targets, others = (_differences(old, new, part, plan) for part in ("target", "non_targets"))
    if not targets:
        raise UserError(f"{old.name} has no arm but controls, so there is no gain to compare")
    notes = [*_notes(old, new)]
    routing: RoutingAgreement | None = None
    try:
        routing = routing_agreement(*folders)
    except UnlikeRoutingError as error:
        notes.append(f"agreement of routing is not known: {error}")
    return RegressionResult(
        schema_version=REGRESSION_VERSION,
        old=_side(old),
        new=_side(new),
        plan=plan.name,
        suite=old.result.suite,
        outcome=plan.outcome,
        significance_level=plan.significance_level,
        margin=plan.margin_of(plan.outcome),
        arms=tuple(_arm(old, new, key, targets[key], others[key]) for key in targets),
        routing=routing,
        notes=tuple(notes),
    )


def check_run_of(run: FinishedRun, plan: Plan, limit: int | None) -> None:
    """Check that a finished run is one of this plan and limit, on any model.

    Raises:
        UserError: it has other settings.
    """
    own = _settings(_plan(run), run.result.run.limit)
    if differing := _unlike(own, _settings(plan, limit)):
        raise UserError(
            f"{run.name} is a run with other settings than plan {plan.name!r}: "
            f"{', '.join(differing)}; give its plan and options, or its model instead of the run"
        )


def _folder(run: FinishedRun) -> RunFolder:
    if run.folder is None:
        raise UserError(f"{run.name} has no cells, so items cannot be paired; give a run's folder")
    return run.folder


def _plan(run: FinishedRun) -> Plan:
    folder = _folder(run)
    with sound(str(folder.identity)):
        return Plan.model_validate(folder.read_json(folder.identity).get("plan"))


def _settings(plan: Plan, limit: int | None) -> dict[str, object]:
    return plan.model_dump(mode="json", exclude=_OF_MODEL) | {"limit": limit}


def _unlike(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """Return the keys in which two mappings differ, with both values."""
    return [
        f"{key} ({a.get(key)!s:.60}, and {b.get(key)!s:.60})"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]


def _check_alike(old: FinishedRun, new: FinishedRun) -> None:
    """Check that two runs differ in nothing but the model.

    Raises:
        UserError: they differ in something else.
    """
    sides = [_settings(_plan(run), run.result.run.limit) | _variants(run) for run in (old, new)]
    tasks = [{f"task {row.task}": row.version for row in run.result.base} for run in (old, new)]
    for differing, way_out in (
        (_unlike(*sides), "run both with the same plan and options"),
        (_unlike(*tasks), "its items or scoring changed: run both with the same suite and data"),
    ):
        if differing:
            raise UserError(
                f"{old.name} and {new.name} cannot be compared, since they differ in "
                f"{', '.join(differing)}; {way_out}"
            )


def _variants(run: FinishedRun) -> dict[str, object]:
    """Return the variants from the user's files, which a plan only names."""
    folder = _folder(run)
    return {"own variants": folder.read_json(folder.identity).get("own_variants")}


def _differences(
    old: FinishedRun, new: FinishedRun, part: Part, plan: Plan
) -> dict[Key, GainDifference]:
    changes = gain_changes(new, old, part, plan.outcome)
    if changes is None:
        raise UserError(
            f"{old.name} and {new.name} do not have the {plan.outcome} of the same items; run both "
            "with the same suite and data"
        )
    return {key: _stored(change, plan) for key, change in changes.items()}


def _stored(change: GainChange, plan: Plan) -> GainDifference:
    result, p_adjusted = change.result, change.p_adjusted
    unit = POINTS if plan.outcome == "score" else Unit(OUTCOMES[plan.outcome].unit)
    margin = plan.margin_of(plan.outcome)
    said = claim(result, margin, plan.significance_level, p_adjusted, unit)
    return GainDifference(
        n=result.n,
        clusters=result.clusters,
        old_gain=result.score_a,
        new_gain=result.score_b,
        difference=result.delta,
        ci95=result.known_ci95,
        p_value=result.p_value,
        test=result.test,
        mde80=result.known_mde80,
        p_adjusted=p_adjusted,
        verdict=said.verdict,
        claim=said.words,
    )


def _arm(
    old: FinishedRun, new: FinishedRun, key: Key, target: GainDifference, others: GainDifference
) -> ArmRegression:
    before, after = primary_claim(old, key), primary_claim(new, key)
    if before is None or after is None:
        raise UserError(f"{' on '.join(key)} claims nothing; run the plan again")
    return ArmRegression(
        variant=key[0],
        target=key[1],
        improved_old=before.verdict == "improves",
        improved_new=after.verdict == "improves",
        old_claim=before.words,
        new_claim=after.words,
        gain=target,
        elsewhere=others,
        experts=_experts(old, new, key),
    )


def _experts(old: FinishedRun, new: FinishedRun, key: Key) -> SharedExperts | None:
    profiles = [experts_profile(_folder(run), run.arms[key]) for run in (old, new)]
    if profiles[0] is None or profiles[1] is None:
        return None
    models = [(one.model.layers, one.model.experts) for one in profiles if one is not None]
    if models[0] != models[1]:
        return None
    chosen = profiles[0].experts, profiles[1].experts
    shared, by_chance = shared_experts(*chosen, models[0][1])
    return SharedExperts(
        old=len(chosen[0]), new=len(chosen[1]), jaccard=shared, by_chance=by_chance
    )


def _side(run: FinishedRun) -> Side:
    folder, model = _folder(run), run.result.run
    return Side(
        model=model.model,
        fingerprint=model.fingerprint,
        run=shown(str(folder.root)),
        root_hash=folder.root_hash,
    )


def _notes(old: FinishedRun, new: FinishedRun) -> Iterator[str]:
    """Yield what differs between the runs beside the weights and may move figures too."""
    if old.result.run.fingerprint == new.result.run.fingerprint:
        yield "both models have the same weights"
    yield from (f"the runs differ in {one}" for one in _unlike(_facts(old), _facts(new)))


def _facts(run: FinishedRun) -> dict[str, object]:
    """Return what a run need not share with another, and what its figures may depend on."""
    about = run.result.run
    identity = read_cell(_folder(run), run.result.base[0].cell)["identity"]
    return {
        **about.model_dump(mode="json", include=_NOTED),
        **{f"version of {name}": version for name, version in about.versions.items()},
        **{name: identity.get(name) for name in ("prompt_format", "ends")},
    }

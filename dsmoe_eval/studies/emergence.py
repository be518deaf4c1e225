"""The existence test along training: on several checkpoints of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from ..errors import UserError
from .existence_maps import ExistenceMaps
from .influence import FormName
from .map_results import CheckpointRow, EmergenceResult, MapSummaryRow
from .results import ExistenceResult


def emergence(
    names: Sequence[str],
    test: Callable[[str], ExistenceMaps],
    form: FormName | None = None,
    advance: Callable[[str], None] = lambda _label: None,
) -> EmergenceResult:
    """Test checkpoints one after the other.

    Args:
        names: the checkpoints, in the order of training: folders, or names and revisions.
        test: tests one; see `existence_maps`. All must read the same text.
        form: the form of influence; None if it is not computed.
        advance: called with the label of the checkpoint that is tested next.

    Raises:
        UserError: a checkpoint occurs twice, or has other layers or experts than the first.
    """
    rows: list[CheckpointRow] = []
    first: ExistenceResult | None = None
    for name, label in zip(names, labels_of(names), strict=True):
        advance(label)
        maps = test(name)
        result = next(iter(maps.tests.values()))
        first = first or result
        if (result["layers"], result["experts"]) != (first["layers"], first["experts"]):
            raise UserError(
                f"{name} has {len(result['layers'])} layers of {result['experts']} experts, and "
                f"{names[0]} has {len(first['layers'])} of {first['experts']}; give checkpoints of "
                "one model"
            )
        rows.append(_row(name, label, maps))
    if first is None:
        raise ValueError("there is no checkpoint")
    units = {"units": first["units"]} if "units" in first else {}
    found: EmergenceResult = {
        "source": f"suite {first['suite']}" if first["suite"] else str(first["file"]),
        "bases": list(rows[0]["tests"]),
        "form": form,
        "layers": first["layers"],
        "experts": first["experts"],
        "hypotheses": first["hypotheses"],
        "level": first["level"],
        "permutations": first["permutations"],
        "control_models": first["control_models"],
        "limit": first["limit"],
        "checkpoints": rows,
    }
    return cast(EmergenceResult, found | units)


def _row(name: str, label: str, maps: ExistenceMaps) -> CheckpointRow:
    return {
        "model": name,
        "fingerprint": next(iter(maps.tests.values()))["fingerprint"],
        "label": label,
        "tests": {by: summarise_map(one) for by, one in maps.tests.items()},
        "agreement": list(maps.agreement),
    }


def summarise_map(result: ExistenceResult) -> MapSummaryRow:
    """Summarise a result over domains; see `MapSummaryRow`."""
    by_domain = {row["domain"]: sum(row["by_layer"]) for row in result["domains"]}
    beyond = {
        kind: sum(row["controls"][kind]["beyond"] for row in result["domains"])
        for kind in result["controls"]
    }
    return {
        "specific": sum(by_domain.values()),
        "by_domain": by_domain,
        "beyond": beyond,
        "controls": result["controls"],
    }


def labels_of(names: Sequence[str]) -> list[str]:
    """Return a short name of each checkpoint: its revision, or the last part of its path.

    Raises:
        UserError: a checkpoint occurs twice.
    """
    places = [Path(name) for name in names]  # one folder may be written in several ways
    for name, place in zip(names, places, strict=True):
        if (count := places.count(place)) > 1:
            raise UserError(f"the checkpoint {name} is given {count} times; once will do")
    short = [name.rpartition("@")[2] if "@" in name else Path(name).name for name in names]
    return short if len(set(short)) == len(short) else list(names)

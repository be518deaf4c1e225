"""What the report of a run on a dense model says of its units, which it calls experts."""

from __future__ import annotations

from typing import TypedDict

from ..results import RunFolder


class SteeredUnits(TypedDict, total=False):
    """The part of `identification.json` that a run on neurons has.

    Attributes:
        units: what the experts are, in the plural.
        column: how many of them are added up in a column of tables and maps.
    """

    units: str
    column: int


def units_note(folder: RunFolder) -> list[str]:
    """Return a sentence that says what the experts of this report are, unless they are experts."""
    found: SteeredUnits = folder.read_json(folder.identification)
    if "units" not in found:
        return []
    return [
        f"The model is dense: what is called an expert here is one of its {found['units']}, "
        "selected by a token where |activation| times the length of its column of the down "
        "projection is among the layer's largest sixteenth, and steered by scaling its activation."
    ]


def column_label(found: SteeredUnits, experts: int) -> str:
    """Return what the columns of a layer are on a map, in words."""
    if "units" not in found:
        return f"layer, each with its {experts} experts"
    return f"layer, each with {experts} columns of {found['column']} {found['units']}, added up"

"""What the report of a run on a dense model says of its units."""

from __future__ import annotations

from typing import TypedDict

from ..results import RunFolder
from .unit_words import in_words_of


class SteeredUnits(TypedDict, total=False):
    """The part of `identification.json` that a run on neurons has.

    Attributes:
        units: what is steered instead of experts, in the plural.
        column: how many of them are added up in a column of tables and maps.
    """

    units: str
    column: int


def steered_units(folder: RunFolder) -> str | None:
    """Return what a run steers instead of experts, in the plural; None: experts."""
    found: SteeredUnits = folder.read_json(folder.identification)
    return found.get("units")


def units_note(units: str | None) -> list[str]:
    """Return a sentence on how units are selected and steered, unless they are experts."""
    if units is None:
        return []
    return [
        f"The model is dense, and its {units} are steered: a token selects those for which "
        "|activation| times the length of the column of the down projection is among the layer's "
        "largest sixteenth, and steering scales the activation."
    ]


def column_label(found: SteeredUnits, experts: int) -> str:
    """Return what the columns of a layer are on a map, in words."""
    if found.get("column", 1) == 1:
        return in_words_of(found.get("units"), f"layer, each with its {experts} experts")
    return f"layer, each with {experts} columns of {found['column']} {found['units']}, added up"


def column_words(found: SteeredUnits) -> dict[str, str]:
    """Return the words of captions on columns: `one`, of a column; `share`, what each one has."""
    if found.get("column", 1) == 1:
        return {"one": "one expert", "share": "each expert's share", "label": "expert"}
    several = f"{found['column']} {found['units']}"
    return {
        "one": f"{several}, added up",
        "share": f"the share of each column of {several}, added up, in the selection",
        "label": f"column of {several}, added up",
    }

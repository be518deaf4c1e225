"""JSON Schemas of the files that the program writes, from the models that write and read them.

python -m dsmoe_eval.schemas [FOLDER]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from .files import write_text
from .gates.verdict import Verdict
from .leaderboards.schema import Entry
from .results.regression import RegressionResult
from .results.schema import RunResult
from .results.stability import StabilityResult
from .steering import Profile

FOLDER = Path("docs/schemas")
_FILES: Mapping[str, tuple[type[BaseModel], Literal["validation", "serialization"]]] = {
    "comparisons": (RunResult, "validation"),
    "stability": (StabilityResult, "validation"),
    "regression": (RegressionResult, "validation"),
    "verdict": (Verdict, "serialization"),
    "profile": (Profile, "serialization"),
    "leaderboard-entry": (Entry, "validation"),
}
"""Name -> the model, and whether the schema is for reading (validation) or for writing."""


def schemas() -> dict[str, str]:
    """Return each schema's file name and text."""
    texts = {}
    for name, (model, mode) in _FILES.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        schema |= model.model_json_schema(mode=mode)
        texts[f"{name}.schema.json"] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    return texts


def main(folder: Path = FOLDER) -> None:
    """Write every schema into a folder."""
    for name, text in schemas().items():
        write_text(folder / name, text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))

"""Reads the lab tasks' items from the files beside this one; named in the task YAMLs."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets


def load(file: str, **_: Any) -> dict[str, datasets.Dataset]:
    """Return the items of a file by the name of their split."""
    return dict(_read(file))


@functools.cache  # a run opens each task once per split
def _read(file: str) -> Mapping[str, datasets.Dataset]:
    text = (Path(__file__).parent / "data" / file).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    splits = sorted({row["split"] for row in rows})
    return {
        split: datasets.Dataset.from_list([row for row in rows if row["split"] == split])
        for split in splits
    }

"""Reads the items of the files beside this one, by domain; named in the task YAMLs."""

import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets


def load(file: str, domain: str, few: bool = False, **_: Any) -> dict[str, datasets.Dataset]:
    """Return a domain's items of a file by the name of their split.

    With `few`, only the rows that have `few: true`.
    """
    rows = [row for row in _read(file) if row["domain"] == domain and (not few or row["few"])]
    splits = sorted({row["split"] for row in rows})
    return {
        split: datasets.Dataset.from_list([row for row in rows if row["split"] == split])
        for split in splits
    }


@functools.cache  # a run opens each task once per split
def _read(file: str) -> Sequence[Mapping[str, Any]]:
    packed = (Path(__file__).parent / "data" / file).read_bytes()
    text = (gzip.decompress(packed) if file.endswith(".gz") else packed).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]

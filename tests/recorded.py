"""Manifests of folders that tests make up or change."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dsmoe_eval.files import seal, write_json
from dsmoe_eval.results.manifest import MANIFEST

UNRECORDED = ("report", "gate", "trial", "observations", "answers", "log.jsonl", MANIFEST)


def record(root: Path) -> Path:
    """Write a manifest anew, as a forger would: what was changed in the folder then passes."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name[0] != "."]
    named = {path.relative_to(root).as_posix(): path for path in files}
    hashes = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if name.split("/")[0] not in UNRECORDED
    }
    write_json(root / MANIFEST, seal(hashes))
    return root

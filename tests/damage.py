"""Damage to a file, as a disk or a careless edit does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st


@contextmanager
def damaged(path: Path, data: st.DataObject) -> Iterator[None]:
    """Flip a bit of a file or truncate it, and restore it afterwards."""
    content = path.read_bytes()
    at = data.draw(st.integers(0, max(0, len(content) - 1)), label=path.name)
    changed = bytearray(content)
    if not content or data.draw(st.booleans(), label="truncated"):
        del changed[at:]
    else:
        changed[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)

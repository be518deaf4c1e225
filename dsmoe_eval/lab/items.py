"""Writes the world's items as the JSONL files that the task YAMLs of the lab suite read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from .world import (
    ARITHMETIC,
    DOMAINS,
    World,
    arithmetic_question,
    named_question,
    unnamed_question,
)


def task_rows(world: World) -> Mapping[str, list[dict[str, object]]]:
    """Build the rows of each file, by file stem.

    Multiple-choice rows have options and the index of the gold option; sums have an answer.
    """
    files: dict[str, list[dict[str, object]]] = {}
    for domain in DOMAINS:
        files[f"{domain}_named"] = list(_choice_rows(world, domain, named=True))
        files[f"{domain}_unnamed"] = list(_choice_rows(world, domain, named=False))
    files[ARITHMETIC] = [
        {"question": arithmetic_question(item), "answer": str(item.answer), "split": item.split}
        for item in world.sums
    ]
    return files


def write_task_data(world: World, folder: Path) -> list[Path]:
    """Write one JSONL file per task into `folder`; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, rows in task_rows(world).items():
        path = folder / f"{stem}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        written.append(path)
    return written


def _choice_rows(world: World, domain: str, *, named: bool) -> Iterator[dict[str, object]]:
    question = named_question if named else unnamed_question
    for fact in world.facts:
        if fact.domain == domain:
            yield {
                "question": question(fact),
                "options": list(fact.options),
                "gold": fact.options.index(fact.answer),
                "split": fact.split,
            }

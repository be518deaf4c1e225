"""The files of a leaderboard: what is kept of a run, one variant of one model a file.

    leaderboards/<suite>/<org__model>/<revision>/<variant>.json

A file is appended to and never changed: each of its results is one run's, with the figures of
`comparisons.json` to nine digits, and the hashes of the samples that they came from.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..results.arms import Arm, VariantName
from ..results.paired import Hash, Name, Record
from ..results.schema import Base, Leakage, Outline, Plain

SCHEMA_VERSION: Literal[3] = 3
"""Of an entry."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Header(Outline):
    """What all variants of a run share; its hash is the run's id."""

    plan_hash: Hash


class Submission(Record):
    """Who submitted a result, when, the hardware, and the reason if an earlier one differs."""

    date: Annotated[datetime.date, Field(strict=False)]
    by: Plain
    hardware: Plain
    reason: Plain | None = None


class Result(Record):
    """One run's figures of one variant; the file of base has no arms.

    `manifest` is the root hash of the run's files; results that were added before there was one
    lack it.
    """

    run_id: Hash
    submission: Submission
    header: Header
    leakage: Leakage
    base: Annotated[tuple[Base, ...], Field(min_length=1)]
    arms: tuple[Arm, ...]
    samples: dict[str, Sha256]
    manifest: Sha256 | None = None

    @model_validator(mode="after")
    def _judge(self) -> Self:
        for arm in self.arms:
            arm.judge(self.header.levels)
        return self

    def same_figures(self, other: Result) -> bool:
        """Return whether all scores are equal; another machine may round a probe differently."""

        def figures(result: Result) -> object:
            arms = [arm.model_dump(exclude={"cells", "probe"}) for arm in result.arms]
            base = [row.model_dump(exclude={"cell"}) for row in result.base]
            return result.run_id, result.header, result.leakage, base, arms

        return figures(self) == figures(other)

    def same(self, other: Result) -> bool:
        """Return whether the results also come from the very same samples."""
        return self.same_figures(other) and self.samples == other.samples


class Entry(Record):
    """A file: every result of one variant of one model in one suite."""

    schema_version: Literal[3]
    suite: Name
    model: Plain
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    variant: VariantName
    results: Annotated[tuple[Result, ...], Field(min_length=1)]

    @property
    def place(self) -> Path:
        """Where it belongs, from the leaderboards' folder."""
        return Path(self.suite) / self.model / self.revision / f"{self.variant}.json"

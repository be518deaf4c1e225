"""What an executor is given, and what it gives: the runs of one plan on several models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.text import Text

from ..errors import printable
from ..runs.options import RunOptions

Finished = Callable[[str, Path], None]
"""A function that is called with each model that is finished, and the folder of its run."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A plan on several models, each with a separate run.

    Attributes:
        plan: a built-in plan's name or the path of a YAML file.
        root: the folder of all runs; of a single model its run's folder.
        models: the names of the models; empty: the only one of the plan.
        options: the settings beside the plan.
    """

    plan: str
    root: Path
    models: tuple[str, ...]
    options: RunOptions

    def folder(self, model: str) -> Path:
        """Return the folder of a model's run."""
        return self.root if len(self.models) < 2 else self.root / _folder_name(model)

    def options_of(self, model: str) -> RunOptions:
        """Return the options of a model's run."""
        return replace(self.options, model=model)


class Executor(Protocol):
    """Runs a matrix: in this process, or spread over a cluster."""

    def run(self, matrix: Matrix, finished: Finished, console: Console) -> Mapping[str, str]:
        """Run what is missing of every model; one that fails does not stop the others.

        Returns:
            model -> the sentence of its failure.

        Raises:
            UserError: no model can be run.
        """


def show_failure(console: Console, model: str, sentence: str) -> None:
    """Print why a model was not run."""
    console.print(Text(printable(f"dsmoe-eval: model {model!r}: {sentence}")), soft_wrap=True)


def _folder_name(model: str) -> str:
    return re.sub(r"[^\w.-]+", "--", model.strip("/"))

"""The tables of a dry run."""

from io import StringIO

from rich.console import Console

from dsmoe_eval.reports.estimate import estimate_tables
from dsmoe_eval.runs.estimate import CostEstimate, ModelEstimate, TaskEstimate


def test_unknown_figures_and_hopeless_tasks_are_shown_as_such():
    task = TaskEstimate(
        "aime24", "aime", ("non-target",), 4, 0, 0, 8, False, None, None, (None, 0.25), "not there"
    )
    model = ModelEstimate("m", 0, None, None, None)
    found = CostEstimate(
        "p", "s", "vllm", 4, ("base",), ("math",), (task,), 1, 4, 0, 0, False, 1, (model,)
    )
    console = Console(width=200, record=True, file=StringIO())
    console.print(estimate_tables(found))
    said = console.export_text()
    for part in (
        "nothing",
        "25.0 pp",
        "4 x 8 *",
        "?",
        "not there",
        "an anecdote",
        "4, each with 1 / 4",
    ):
        assert part in said

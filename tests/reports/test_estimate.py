"""The tables of a dry run."""

from io import StringIO

from rich.console import Console

from dsmoe_eval.reports.estimate import _model_row, estimate_tables
from dsmoe_eval.runs.estimate import CostEstimate, ModelEstimate, TaskEstimate


def printed(found, width):
    console = Console(width=width, record=True, file=StringIO())
    console.print(estimate_tables(found))
    return console.export_text()


def test_case_19_names_are_whole_at_80_columns():
    names = [f"my_team_s_long_{kind}_of_{part}" for kind in ("exam", "quiz") for part in "abc"]
    figures = (12_000, 1_500, 1_500, 8, False, 1_234, 32_768, (0.1, 0.2), None)
    tasks = tuple(TaskEstimate(name, "d", ("non-target",), *figures) for name in names)
    model = ModelEstimate("/a/folder/" + "deep/" * 20 + "[x]", 10**12, 10**9, 1e3, 1e6, 1e6)
    found = CostEstimate(
        "p",
        "s",
        "vllm",
        "transformers",
        1,
        ("base",),
        ("d",),
        tasks,
        1,
        4,
        0,
        0,
        True,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        (model,),
    )
    lines = printed(found, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    width = next(line.index("role") for line in lines if " role " in line)
    column = "".join(line[1:width].strip() for line in lines if "─" not in line)
    assert all(name in column for name in names)
    assert model.model in "".join(line[1:].split(" ")[0] for line in lines)


def test_a_short_time_is_said_in_words():
    def hours(value):
        return [*_model_row(ModelEstimate("m", 10**6, 0, 0.5, 0.01, value))][-1]

    assert [hours(one) for one in (None, 6e-6, 1 / 61, 1 / 59, 0.24)] == [
        "?", "under a minute", "under a minute", "0.02", "0.2",
    ]  # fmt: skip


def test_unknown_figures_and_hopeless_tasks_are_shown_as_such():
    task = TaskEstimate(
        "aime24", "aime", ("non-target",), 4, 0, 0, 8, False, None, None, (None, 0.25), "not there"
    )
    model = ModelEstimate("m", 0, 0, None, None, None)
    found = CostEstimate(
        "p",
        "s",
        "vllm",
        "transformers",
        4,
        ("base",),
        ("math",),
        (task,),
        1,
        4,
        0,
        0,
        False,
        2,
        900,
        1,
        0,
        0,
        0,
        0,
        (model,),
    )
    said = printed(found, 200)
    for part in (
        "none",
        "25.0",
        "4 x 8 *",
        "?",
        "not there",
        "an anecdote",
        "2 texts, 0.9 k tokens per pass",
        "4, each with 1 / 4",
    ):
        assert part in said

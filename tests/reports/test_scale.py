"""The tables of a plan on paper."""

import dataclasses
from io import StringIO

from rich.console import Console

from dsmoe_eval.executors.scale import Makespan, ModelOnPaper, ScaleEstimate
from dsmoe_eval.reports.scale import hours, scale_tables

LONG = "/a/folder/" + "deep/" * 20 + "[x]"
FOUND = ScaleEstimate(
    plan="p",
    makespans=(Makespan(8, 1234.5, 9000.0, 0.915), Makespan(1, None, None, None)),
    enough=Makespan(72, 33.0, 2000.0, 0.5),
    least=Makespan(900, 32.0, 9000.0, 0.1),
    models=(
        ModelOnPaper("small", 1, 12.0, {"load": 0.01, "cells": 1.5}),
        ModelOnPaper(LONG, 2, 34567.0, {"load": 0.05, "cells": 31.0}),
    ),
    left_out={"other": "model 'other': it has no card"},
    unknown_tasks=("gpqa",),
    unknown_share=0.05,
)


def printed(found, width=80):
    console = Console(width=width, record=True, file=StringIO())
    console.print(scale_tables(found))
    return console.export_text()


def test_everything_is_said():
    lines = printed(FOUND).splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    assert "8 1,234 9,000 92%" in said or "8 1,235 9,000 92%" in said
    assert "1 too few - -" in said
    assert "small 1 12 1.5" in said
    wide = " ".join(printed(FOUND, 300).split())
    assert f"critical path: {LONG}, in hours: load 0.05, cells 31" in wide
    assert "more GPUs than 72 hardly help: 33 hours, at most 5% over the 32 hours" in wide
    assert "tokens are not known here: gpqa (5% of the answers)" in wide
    assert "not counted: model 'other': it has no card" in wide
    assert "transformers generates 64 answers at once" in wide


def test_without_a_known_model_there_is_no_makespan():
    nothing = dataclasses.replace(FOUND, makespans=(), enough=None, least=None, models=())
    assert "no makespan: no model could be counted" in printed(nothing)
    assert "hardly help" not in printed(nothing)


def test_hours_have_no_false_precision():
    assert [hours(one) for one in (12345.6, 10.4, 2.345, 0.0123)] == [
        "12,346",
        "10",
        "2.3",
        "0.012",
    ]

"""A matrix gives each model a run."""

from pathlib import Path

from dsmoe_eval.executors.base import Matrix
from dsmoe_eval.runs import RunOptions


def test_each_of_several_models_has_a_subfolder():
    several = Matrix("lab", Path("out"), ("a/b@1", "../c"), RunOptions())
    folders = [several.folder(model) for model in several.models]
    assert folders == [Path("out/a--b--1"), Path("out/..--c")]
    assert several.options_of("a/b@1").model == "a/b@1"


def test_a_single_one_has_the_folder():
    assert Matrix("lab", Path("out"), ("a/b",), RunOptions()).folder("a/b") == Path("out")

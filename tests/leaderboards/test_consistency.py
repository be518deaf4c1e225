"""A single figure that is not what it was is found, but for those that nothing follows from."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.leaderboards import check_leaderboards
from dsmoe_eval.leaderboards.submission import to_text

from .conftest import SMALL

FREE = (
    r"arms\.\d+\.(settings|probe|information|prompt_tokens)\..*",  # nothing else repeats them
    # Of binary answers it would follow, at a cost; the target's is checked, as it decides a mark.
    r".*(non_targets|domains\.\d+|over_placebo|specificity|over_prompt)\.mde80",
    r".*\.answers\.(b|both_whole)\..*",  # they follow from the samples alone
)
"""Figures that may change alone, by their path within a result."""
SAMPLED_FREE = (
    *FREE,
    # Of means of samples and of clusters nothing follows without the samples.
    r".*\.(ci95\.\d|p_value|mde80|clusters|lower_bound|score_b|gained|lost)",
)


def numbers(value, path=()):
    """The paths of all numbers in JSON."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def nudged(value, how):
    if isinstance(value, int):
        return value + (1 if how > 0 else -1)
    if how in (-1, 1):  # by a hundredth of itself
        return value * (1 + how / 100)
    return value + how / 200  # by 0.01


class Board:
    """A leaderboard whose figures can be nudged one at a time."""

    def __init__(self, root):
        self.root = root
        self.files = sorted(root.glob("*/*/*/*.json"))
        self.texts = {path: path.read_text() for path in self.files}
        self.places = [
            (file, path)
            for file in self.files
            for path in numbers(json.loads(self.texts[file])["results"][0])
        ]

    def rules(self, file, path, how):
        """The rules by which a nudged figure is found; None where nudging changes nothing."""
        content = json.loads(self.texts[file])
        holder = content["results"][0]
        for key in path[:-1]:
            holder = holder[key]
        before, holder[path[-1]] = holder[path[-1]], nudged(holder[path[-1]], how)
        if before == holder[path[-1]]:
            return None
        file.write_text(to_text(content))
        try:
            return {one.rule for one in check_leaderboards(self.root)} - {"stale-page"}
        finally:
            file.write_text(self.texts[file])


@pytest.fixture(scope="module")
def boards(make_run, file_runs, tmp_path_factory):
    variants = ("base", "sham", "contrast", "random", "wrong-domain")
    small = SMALL | {"variants": variants}
    made = {"binary": make_run(**small), "sampled": make_run(**small, samples=2, paired=True)}
    root = tmp_path_factory.mktemp("nudged")
    return {name: Board(file_runs(root / name, run)) for name, run in made.items()}


@settings(max_examples=25)  # each checks a whole board
@given(data=st.data())
@pytest.mark.parametrize(("kind", "free"), [("binary", FREE), ("sampled", SAMPLED_FREE)])
def test_any_figure_that_is_nudged_is_found(boards, kind, free, data):
    board = boards[kind]
    file, path = data.draw(st.sampled_from(board.places), label="figure")
    how = data.draw(st.sampled_from([-2, -1, 1, 2]), label="how")
    where = ".".join(map(str, path))
    if not any(re.fullmatch(pattern, where) for pattern in free):
        assert board.rules(file, path, how) != set(), f"{file.name}: {where}"

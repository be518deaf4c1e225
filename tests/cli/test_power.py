"""Planning, as a user starts it."""

import json

import pytest

from dsmoe_eval.cli import main
from dsmoe_eval.stats import items_needed


@pytest.fixture
def power(capsys):
    def call(*arguments):
        code = 0
        try:
            main(["power", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


def test_a_suite_for_people_and_programs(power):
    code, out, _ = power("--suite", "lab", "--margin", "0.05")
    assert code == 0
    needed = items_needed(0.05, 0.1)
    assert needed == pytest.approx(7.85 * 0.1 / 0.05**2, rel=0.05)
    line = next(one for one in out.splitlines() if one.startswith("lab_arithmetic"))
    assert line.split() == [
        "lab_arithmetic", "non-target", "173", "1", "0.100", "assumed", str(needed), "-", "no"
    ]  # fmt: skip
    told = json.loads(power("--suite", "lab", "--margin", "0.05", "--json")[1])
    assert (told["suite"], told["margin"], len(told["tasks"])) == ("lab", 0.05, 11)
    task = told["tasks"][-1]
    assert (task["items"], task["needs"][0]["items"]) == (173, needed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "lab"), "margin"),
        (("--suite", "lab", "--margin", "x"), "margin"),
        (("--suite", "lab", "--margin", "2"), "give a fraction"),
        (("--suite", "lab", "--margin", "nan"), "give a fraction"),
        (("--suite", "nothing", "--margin", "0.1"), "no suite 'nothing'"),
        (("--suite", "lab", "--margin", "0.1", "--pilot", "nowhere"), "has no comparisons.json"),
    ],
)
def test_what_cannot_be_planned(power, arguments, words):
    code, _, err = power(*arguments)
    assert (code, words in err) == (3, True)
    assert "Traceback" not in err

"""What `make test-latest` installs, and the table that ends it."""

import re

import pytest

from . import latest


def test_every_dependency_is_installed_without_bounds():
    names = latest.requirements()
    text = (latest.ROOT / "pyproject.toml").read_text()
    listed = text.partition("dependencies = [")[2].partition("]\n")[0]
    assert {"torch", "transformers", "lm-eval[ifeval]", "peft", "inspect-ai"} <= set(names)
    assert len(re.findall(r'^  "', listed, re.MULTILINE)) <= len(names)
    assert not [name for name in names if re.search(r"[<>=~!;]", name)]


def test_the_table_has_what_differs_from_the_tested_versions(monkeypatch):
    monkeypatch.setattr(latest, "pinned", lambda: {**dict.fromkeys(latest.ENGINES, "1"), "a": "1"})
    monkeypatch.setattr(latest, "installed", lambda name: {"a": "2", "torch": "1+cpu"}.get(name))
    assert latest.table().splitlines()[2:] == [
        "| torch | 1 | 1+cpu |",
        *(f"| {name} | 1 | not installed |" for name in latest.ENGINES[1:]),
        "| a | 1 | 2 |",
    ]


@pytest.mark.parametrize(
    ("suite", "counts", "well"),
    [
        ('tests="5" failures="0" errors="0" skipped="1"', "4 passed, 0 failed, 1 skipped", True),
        ('tests="5" failures="1" errors="1" skipped="0"', "3 passed, 2 failed, 0 skipped", False),
        ('tests="0" failures="0" errors="0" skipped="0"', "0 passed, 0 failed, 0 skipped", False),
        (None, "did not run", False),
    ],
)
def test_only_a_run_with_passed_tests_alone_is_well(tmp_path, suite, counts, well):
    if suite:
        (tmp_path / "out.xml").write_text(f"<testsuites><testsuite {suite}/></testsuites>")
    assert latest.outcome(tmp_path / "out.xml") == (counts, well)

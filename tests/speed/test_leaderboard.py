"""The benchmark of leaderboards runs, and what it builds has nothing wrong."""

from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import leaderboard

    return leaderboard


@pytest.mark.slow  # of a benchmark, not of the package
def test_it_builds_the_page_of_every_run(benchmark, tmp_path):
    runs = benchmark.make_runs(tmp_path, models=2, items=120, domains=3)
    root = tmp_path / "leaderboards"
    assert benchmark.file_runs(runs, root) > 0
    found = benchmark.build_and_check(root, runs)
    assert found["findings"] == 0
    assert found["item_files"] == 2 * (3 + 1)  # models, tasks, and one part of what was generated
    assert set(benchmark.BARS) <= set(found)
    assert found["page_mib"] < benchmark.BARS["page_mib"]
    cells = len(list((runs[0] / "cells").iterdir()))
    assert cells == 3 + 5 * (3 + 3)  # base; of each arm its target, and one of each task shared
